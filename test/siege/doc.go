// Package siege judges what attackers of a sidecar do to others: programs in pods,
// over kernels, as anywhere else. What the sidecar itself holds against each attack
// is tested in package tunproxy, of the same list (package attack). It owns nothing
// but tests; they run with TUNMESH_SIEGE=PAIRS (make siege).
package siege
