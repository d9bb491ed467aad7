// Package datagram watches what crosses a sidecar without being proxied: UDP, and
// in it the names that the pod's processes resolve. It owns which packets are one
// flow, which answer belongs to which question, and the bounds on remembering
// both; it refuses to change, delay or drop a packet, to know a resolver's
// business (search lists, caches), and to see DNS over TCP, TLS or HTTPS, which
// are connections like others.
//
// A flow is a pair of addresses with ports, opened by whoever sent first, and over
// when nobody has sent for a minute. Flows are counted by where they lead: to the
// peer's address for those of the pod, to the pod's own port for those of others.
// What there is no room for is counted all the same, under overflow="true".
package datagram
