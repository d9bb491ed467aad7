// Package workloads tests what teams see whose applications are in the mesh: a real
// cluster of two nodes and both address families, with everything that Kubernetes
// offers to pods, each tried on injected ones. It runs with TUNMESH_CLUSTER=1, as
// make e2e does.
package workloads
