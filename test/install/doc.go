// Package install tests what an operator types, in a real Kubernetes: installing
// the mesh, checking it, meshing the sample application, and removing all of it
// again, by meshctl and kubectl alone. It owns nothing but tests; they run with
// TUNMESH_CLUSTER=1 (make e2e).
package install
