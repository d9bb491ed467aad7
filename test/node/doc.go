// Package node tests the node's side of the mesh in a real Kubernetes: the
// plugin in a CNI chain that somebody else made, the agent's DaemonSet and its
// removal, who gets queues. It owns nothing but tests; they run with
// TUNMESH_CLUSTER=1 (make e2e).
package node
