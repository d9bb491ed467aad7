// Package nettest makes networks for tests that need root: namespaces, veth
// pairs, bridges, and a picture of a namespace to compare with. It is the only
// place besides cni/podnet that speaks netlink, so that no test depends on
// iproute2. It knows nothing of the mesh.
package nettest
