// Package hop holds the constants of the protocol between two sidecars, as
// docs/design/0001-the-hop.md fixes it. It refuses to know how they are used.
package hop

import "strings"

// ALPN tokens, versioned. A peer that offers only tokens of this family that we
// do not know is refused with TLS's no_application_protocol.
const (
	// ALPNRequests carries HTTP requests as HTTP/2 streams.
	ALPNRequests = "tunmesh-http/1"
	// ALPNBytes carries opaque byte streams. (Version 1 carried them one after the
	// other.)
	ALPNBytes = "tunmesh-tcp/2"
	// ALPNUpgrade carries one HTTP/1.1 request that asks for a change of protocol.
	ALPNUpgrade = "tunmesh-http1/1"
	// ALPNFamily begins every token of ours, of any version.
	ALPNFamily = "tunmesh-"
)

// IsOurs reports whether an ALPN token belongs to the mesh, known or not.
func IsOurs(token string) bool { return strings.HasPrefix(token, ALPNFamily) }

// IsKnown reports whether an ALPN token is one that this version speaks.
func IsKnown(token string) bool {
	return token == ALPNRequests || token == ALPNBytes || token == ALPNUpgrade
}

// FieldPrefix begins every header field that sidecars add for each other; they
// are removed from what apps send and never reach an app.
const FieldPrefix = "x-tunmesh-"

// Fields of the hop and fields that apps may read.
const (
	// FieldOrig carries what HTTP/2 cannot say of an HTTP/1 message.
	FieldOrig = FieldPrefix + "orig"
	// FieldUntraced, on requests, says that the sender decided against tracing. It
	// is there or not; its value is "1".
	FieldUntraced = FieldPrefix + "untraced"
	// FieldProxyError, on responses made by a sidecar, names the reason.
	FieldProxyError = FieldPrefix + "proxy-error"
)
