// Package podnet gives a meshed pod its network: a TUN in the place of the
// pod's interface, and the interface itself in a namespace that no container
// joins. It owns links, addresses, routes, neighbours and sysctls of these two
// namespaces, and is the only door to netlink outside of tests; it refuses to
// know CNI, who serves the TUNs (cni/broker), and why a pod is meshed.
//
// P is the pod's namespace, U the uplink's. Setup, after Capture has described
// the interface as the chain's other plugins made it:
//
//  1. makes U, kept by a bind mount, and forbids it whatever a fresh namespace
//     would say by itself (answers, autoconfiguration, redirects);
//  2. moves the interface from P to U, and gives it the pod's address there
//     without local delivery, so that neighbours find it and nobody is answered;
//  3. makes wire0 in U and a TUN of the interface's old name in P, and routes
//     the pod's address between the interface and wire0.
//
// Every step is entered in a Journal with what undoes it. Teardown does the
// same undoing from any half-made state; Check compares with what Setup makes.
package podnet
