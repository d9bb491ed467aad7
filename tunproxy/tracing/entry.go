package tracing

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/rpc"
)

// NoGRPCStatus is an Entry's GRPCStatus when there was none.
const NoGRPCStatus = -1

// Entry is a request with its response, as one sidecar saw it.
type Entry struct {
	// Server: the request came to the pod; else it left it.
	Server     bool
	Start, End time.Time
	// Scheme, Authority and Path are the target. The query is left out: it has
	// secrets too often.
	Method, Scheme, Authority, Path string
	// Version is "1.0", "1.1" or "2".
	Version   string
	UserAgent string
	GRPC      bool
	// Status is 0 when there was no response, GRPCStatus NoGRPCStatus without one.
	Status, GRPCStatus int
	// Failure names what broke; "" where the status says all.
	Failure string
	// Client asked; of a request to the pod. Peer is the other end of the
	// connection, with the identity that it proved; zero without.
	Client, Peer netip.AddrPort
	ID           spiffe.ID
	// Resends is how often the request was sent again.
	Resends int
}

// kinds of spans and codes of their status, as OTLP has them.
const (
	kindServer = 2
	kindClient = 3
	codeError  = 2
)

// append writes the span as a field of ScopeSpans.
func (s *Span) append(b []byte, e *Entry) []byte {
	b, at := nest(b, 2)
	b = appendRaw(b, 1, s.Trace[:])
	b = appendRaw(b, 2, s.ID[:])
	if s.state != "" {
		b = appendText(b, 3, s.state)
	}
	flags := uint32(s.flags()) | 1<<8 // whether the parent is remote is known
	if s.Parent != (SpanID{}) {
		b = appendRaw(b, 4, s.Parent[:])
		flags |= 1 << 9
	}
	kind := uint64(kindClient)
	if e.Server {
		kind = kindServer
	}
	b = appendText(b, 5, e.name())
	b = appendNumber(b, 6, kind)
	b = appendFixed(b, 7, uint64(e.Start.UnixNano())) //nolint:gosec // after 1970
	b = appendFixed(b, 8, uint64(e.End.UnixNano()))   //nolint:gosec // after 1970
	b = e.attributes(b)
	if failed, _ := e.failed(); failed {
		var in int
		b, in = nest(b, 15)
		b = appendNumber(b, 3, codeError)
		end(b, in)
	}
	b = protowire.AppendFixed32(protowire.AppendTag(b, 16, protowire.Fixed32Type), flags)
	end(b, at)
	return b
}

// name is the span's: of few values, as the conventions want it.
func (e *Entry) name() string {
	if e.GRPC {
		return text(strings.TrimPrefix(e.Path, "/"))
	}
	if m := known(e.Method); m != other {
		return m
	}
	return "HTTP"
}

const other = "_OTHER"

// known is the method, or what stands for all that nobody has heard of.
func known(method string) string {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "QUERY":
		return method
	}
	return other
}

// attributes follow the conventions for HTTP, or for gRPC.
func (e *Entry) attributes(b []byte) []byte {
	const num = 9
	host, port := splitAuthority(e.Authority, e.Scheme)
	if host != "" {
		b = attribute(b, num, "server.address", host)
		b = number(b, num, "server.port", int64(port))
	}
	if e.Peer.IsValid() {
		b = address(b, num, "network.peer.address", e.Peer.Addr())
		b = number(b, num, "network.peer.port", int64(e.Peer.Port()))
	}
	if e.Server && e.Client.IsValid() {
		b = address(b, num, "client.address", e.Client.Addr())
	}
	if e.GRPC {
		b = e.call(b, num)
	} else {
		b = e.http(b, num)
	}
	if _, what := e.failed(); what != "" {
		b = attribute(b, num, "error.type", what)
	}
	if !e.ID.IsZero() {
		key := "tunmesh.server.id"
		if e.Server {
			key = "tunmesh.client.id"
		}
		var name [256]byte
		b = attribute(b, num, key, string(e.ID.AppendServerName(name[:0])))
	}
	return b
}

func (e *Entry) call(b []byte, num protowire.Number) []byte {
	b = attribute(b, num, "rpc.system.name", "grpc")
	b = attribute(b, num, "rpc.method", strings.TrimPrefix(e.Path, "/"))
	if e.GRPCStatus != NoGRPCStatus {
		b = attribute(b, num, "rpc.response.status_code", rpc.Code(uint32(e.GRPCStatus)).String())
	}
	return b
}

func (e *Entry) http(b []byte, num protowire.Number) []byte {
	method := known(e.Method)
	b = attribute(b, num, "http.request.method", method)
	if method == other {
		b = attribute(b, num, "http.request.method_original", e.Method)
	}
	path, _, _ := strings.Cut(e.Path, "?")
	if e.Server {
		b = attribute(b, num, "url.scheme", e.Scheme)
		b = attribute(b, num, "url.path", path)
	} else {
		b = attribute(b, num, "url.full", e.Scheme+"://"+e.Authority+path)
	}
	b = attribute(b, num, "network.protocol.version", e.Version)
	if e.UserAgent != "" {
		b = attribute(b, num, "user_agent.original", e.UserAgent)
	}
	if e.Status != 0 {
		b = number(b, num, "http.response.status_code", int64(e.Status))
	}
	if e.Resends > 0 {
		b = number(b, num, "http.request.resend_count", int64(e.Resends))
	}
	return b
}

// failed reports whether the span is one of an error, and what of. A client's
// mistake is none of the server's.
func (e *Entry) failed() (bool, string) {
	switch {
	case e.Failure != "":
		return true, e.Failure
	case e.GRPC && e.GRPCStatus != NoGRPCStatus:
		if e.GRPCStatus == 0 || e.Server && !serverFault(e.GRPCStatus) {
			return false, ""
		}
		return true, rpc.Code(uint32(e.GRPCStatus)).String()
	case e.Status >= 500, e.Status >= 400 && !e.Server:
		return true, strconv.Itoa(e.Status)
	}
	return false, ""
}

// serverFault reports the statuses of gRPC that are errors of the server's.
func serverFault(code int) bool {
	switch code {
	case 2, 4, 12, 13, 14, 15: // unknown, deadline exceeded, unimplemented, internal, unavailable, data loss
		return true
	}
	return false
}

// splitAuthority takes a host and its port apart; without one it is the scheme's.
func splitAuthority(authority, scheme string) (host string, port uint16) {
	host = authority
	if h, p, err := net.SplitHostPort(authority); err == nil {
		if n, err := strconv.ParseUint(p, 10, 16); err == nil {
			return h, uint16(n)
		}
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if scheme == "https" {
		return host, 443
	}
	return host, 80
}

// address is an attribute made without a string.
func address(b []byte, num protowire.Number, key string, a netip.Addr) []byte {
	var room [64]byte
	return attribute(b, num, key, string(a.Unmap().AppendTo(room[:0])))
}
