// Package replicas is how a process of the control plane that has no sidecars
// attached reaches those that have. It owns its certificate, the connections to
// all replicas, and the making of one answer out of theirs. It refuses to know
// what is asked beyond that, and who asks.
//
// Each sidecar is attached to whichever replica it came to. So a tap is opened at
// all of them, and what they say is one stream; a replica that comes or goes
// joins or leaves it, and nobody who watches notices.
package replicas
