package orig

import "github.com/tunmesh/tunmesh/tunproxy/message"

// FromClient translates for a downstream connection whose client is no sidecar:
// what only sidecars may say is removed from its requests.
type FromClient struct{}

// Request removes sidecars' fields.
func (FromClient) Request(h *message.Head) { h.Fields = Strip(h.Fields) }

// Response leaves responses as they are: what a sidecar added is for this client.
func (FromClient) Response(*message.Head) {}

// Trailers removes what Request does.
func (FromClient) Trailers(f []message.Field) []message.Field { return stripFields(f, true) }

// ToServer translates for an upstream connection whose server is no sidecar.
type ToServer struct{}

// Request removes what was for this sidecar only.
func (ToServer) Request(h *message.Head) { h.Fields = Strip(h.Fields) }

// Response removes what a server may not say.
func (ToServer) Response(h *message.Head) { h.Fields = Strip(h.Fields) }

// Trailers removes the same.
func (ToServer) Trailers(f []message.Field) []message.Field { return Strip(f) }

// ToSidecar translates for an upstream connection to a sidecar: requests are
// packed, responses unpacked.
type ToSidecar struct{ Names *Names }

// Request packs.
func (t ToSidecar) Request(h *message.Head) { t.Names.Pack(h) }

// Response unpacks; one that is malformed stays a response of HTTP/2.
func (t ToSidecar) Response(h *message.Head) { _, _ = t.Names.Unpack(h) }

// Trailers removes what is not for apps; a sidecar's own error is.
func (ToSidecar) Trailers(f []message.Field) []message.Field { return stripFields(f, true) }

// FromSidecar translates for a downstream connection from a sidecar: requests are
// unpacked, responses packed.
type FromSidecar struct{ Names *Names }

// Request unpacks; one that is malformed stays a request of HTTP/2.
func (t FromSidecar) Request(h *message.Head) { _, _ = t.Names.Unpack(h) }

// Response packs.
func (t FromSidecar) Response(h *message.Head) { t.Names.Pack(h) }

// Trailers keeps this sidecar's own error and nothing else of ours.
func (FromSidecar) Trailers(f []message.Field) []message.Field { return stripFields(f, true) }
