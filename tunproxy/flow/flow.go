// Package flow is what is known about one connection, as values that get
// richer on their way through the sidecar and never come back:
//
//	Flow      who connected to what, known at the SYN
//	Detected  + what the connection speaks, known from its first bytes
//	Secured   + who the peer proved to be, known after a handshake
//
// It owns the vocabulary that every later package labels things with; it
// refuses to know connections, targets and policy.
package flow

import (
	"net/netip"

	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// Direction is which way a connection crosses the sidecar.
type Direction uint8

// The directions.
const (
	// Inbound: from the network to the pod's app.
	Inbound Direction = iota
	// Outbound: from the pod's app to the network.
	Outbound
)

func (d Direction) String() string {
	if d == Inbound {
		return "inbound"
	}
	return "outbound"
}

// A Flow is a connection as its SYN describes it.
type Flow struct {
	Direction Direction
	// Client is the true source.
	Client netip.AddrPort
	// OrigDst is what the client connected to.
	OrigDst netip.AddrPort
}

// Protocol is what a connection speaks, as hinted or as detected. The numbers
// are those of tunmesh.destination.v1.Protocol.
type Protocol uint8

// The protocols.
const (
	// Detect: not known; the first bytes decide.
	Detect Protocol = iota
	// Opaque: bytes, never parsed.
	Opaque
	HTTP1
	HTTP2
	// TLS of the app's own, passed through.
	TLS
)

func (p Protocol) String() string {
	switch p {
	case Detect:
		return "detect"
	case Opaque:
		return "opaque"
	case HTTP1:
		return "http/1"
	case HTTP2:
		return "http/2"
	case TLS:
		return "tls"
	}
	return "unknown"
}

// IsHTTP reports whether requests can be told apart.
func (p Protocol) IsHTTP() bool { return p == HTTP1 || p == HTTP2 }

// A Detected flow is one whose protocol was decided.
type Detected struct {
	Flow
	Protocol Protocol
	// SNI of the app's own TLS; "" when there was none.
	SNI string
}

// Security is how a connection between two pods is protected: the tls label
// and its companions (Linkerd's names).
type Security uint8

// The kinds of security.
const (
	// NoTLS: plain, for the reason beside it.
	NoTLS Security = iota
	// Mutual: our mTLS with a verified peer.
	Mutual
	// Passthrough: the app's own TLS, which the sidecar can't see into.
	Passthrough
)

// Reason says why a connection is plain (the no_tls_reason label).
type Reason uint8

// The reasons.
const (
	// NoReason: the connection is not plain.
	NoReason Reason = iota
	// Loopback: the pod talks to itself.
	Loopback
	// NotMeshed: the control plane said that the peer has no sidecar.
	NotMeshed
	// NoTLSFromRemote: the client of an inbound connection sent no TLS.
	NoTLSFromRemote
)

func (r Reason) String() string {
	switch r {
	case NoReason:
		return ""
	case Loopback:
		return "loopback"
	case NotMeshed:
		return "not_provided_by_service_discovery"
	case NoTLSFromRemote:
		return "no_tls_from_remote"
	}
	return "unknown"
}

// A Peer is the other end of a wire connection and how it is known.
type Peer struct {
	Addr     netip.AddrPort
	Security Security
	// ID was proved by a certificate; it is zero unless Security is Mutual.
	ID     spiffe.ID
	Reason Reason
	// SNI of the peer's own TLS when Security is Passthrough.
	SNI string
}

// TLSLabel is the value of the tls label: "true", "opaque" or "no_identity".
func (p Peer) TLSLabel() string {
	switch p.Security {
	case Mutual:
		return "true"
	case Passthrough:
		return "opaque"
	}
	return "no_identity"
}

// A Secured flow is one whose far peer is known.
type Secured struct {
	Detected
	Peer Peer
}
