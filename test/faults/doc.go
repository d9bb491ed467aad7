// Package faults tests what becomes of a mesh in a real Kubernetes while something
// is broken: certificates replaced, the control plane, the API server or its store
// lost, the injector away, node agents gone, addresses given to somebody else. Two
// hundred requests a second go on all the while, and each that fails is counted. It
// owns nothing but tests; they run with TUNMESH_CLUSTER=1 (make e2e).
//
// docs/faults.md lists every fault with the test that causes it, here or below; a
// test holds the list and the tests together.
package faults
