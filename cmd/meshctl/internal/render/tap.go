package render

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"sort"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"

	"github.com/tunmesh/tunmesh/api/tap"
)

// TapLine is one event as Linkerd's tap prints it; wide adds all labels.
func TapLine(e *tap.Event, wide bool) string {
	proxy := e.GetDirection()
	flow := fmt.Sprintf("proxy=%-3s src=%s dst=%s tls=%s", proxy, addr(e.GetSource()), addr(e.GetDestination()), e.GetTls())
	id := fmt.Sprintf("id=%d:%d", e.GetBase(), e.GetStream())
	var line string
	switch p := e.GetPhase().(type) {
	case *tap.Event_Request:
		r := p.Request
		line = fmt.Sprintf("req %s %s :method=%s :authority=%s :path=%s", id, flow, clean(r.GetMethod()), clean(r.GetAuthority()), clean(r.GetPath()))
	case *tap.Event_Response:
		r := p.Response
		line = fmt.Sprintf("rsp %s %s :status=%d latency=%dµs", id, flow, r.GetStatus(), r.GetSinceRequestUs())
	case *tap.Event_End:
		r := p.End
		what := ""
		switch {
		case r.GrpcStatus != nil:
			what = fmt.Sprintf(" grpc-status=%s", codes.Code(r.GetGrpcStatus()))
		case r.Reset_ != nil:
			what = fmt.Sprintf(" reset-error=%d", r.GetReset_())
		}
		line = fmt.Sprintf("end %s %s%s duration=%dµs response-length=%dB", id, flow, what, r.GetSinceResponseUs(), r.GetResponseBytes())
	default:
		return "unknown " + flow
	}
	if wide {
		line += labels("src_", e.GetSource().GetLabels()) + labels("dst_", e.GetDestination().GetLabels()) + labels("rt_", e.GetRoute())
	}
	return line
}

// clean keeps a hostile path from moving the reader's cursor.
func clean(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return s
	}
	q := fmt.Sprintf("%q", s)
	return q[1 : len(q)-1]
}

func addr(p *tap.Peer) string {
	a, err := netip.ParseAddr(p.GetIp())
	if err != nil {
		return fmt.Sprintf("%s:%d", p.GetIp(), p.GetPort())
	}
	return netip.AddrPortFrom(a, uint16(p.GetPort())).String()
}

func labels(prefix string, m map[string]string) string {
	var out []string
	for k, v := range m {
		out = append(out, " "+prefix+k+"="+clean(v))
	}
	sort.Strings(out)
	return strings.Join(out, "")
}

type tapEndpoint struct {
	IP       string            `json:"ip"`
	Port     uint32            `json:"port"`
	Metadata map[string]string `json:"metadata"`
}

type tapID struct {
	Base   uint32 `json:"base"`
	Stream uint64 `json:"stream"`
}

type tapDuration struct {
	Seconds uint64 `json:"seconds,omitempty"`
	Nanos   uint64 `json:"nanos,omitempty"`
}

type tapHeader struct {
	Name string `json:"name"`
	Str  string `json:"valueStr,omitempty"`
	Bin  string `json:"valueBin,omitempty"`
}

type tapEvent struct {
	Source      tapEndpoint       `json:"source"`
	Destination tapEndpoint       `json:"destination"`
	RouteMeta   map[string]string `json:"routeMeta"`
	Direction   string            `json:"proxyDirection"`
	TLS         string            `json:"tls"`
	Request     *tapRequest       `json:"requestInitEvent,omitempty"`
	Response    *tapResponse      `json:"responseInitEvent,omitempty"`
	End         *tapEnd           `json:"responseEndEvent,omitempty"`
}

type tapRequest struct {
	ID        tapID       `json:"id"`
	Method    string      `json:"method"`
	Scheme    string      `json:"scheme"`
	Authority string      `json:"authority"`
	Path      string      `json:"path"`
	Headers   []tapHeader `json:"headers,omitempty"`
}

type tapResponse struct {
	ID      tapID       `json:"id"`
	Since   tapDuration `json:"sinceRequestInit"`
	Status  uint32      `json:"httpStatus"`
	Headers []tapHeader `json:"headers,omitempty"`
}

type tapEnd struct {
	ID            tapID       `json:"id"`
	SinceRequest  tapDuration `json:"sinceRequestInit"`
	SinceResponse tapDuration `json:"sinceResponseInit"`
	Bytes         uint64      `json:"responseBytes"`
	Trailers      []tapHeader `json:"trailers,omitempty"`
	GrpcStatus    *uint32     `json:"grpcStatusCode,omitempty"`
	Reset         *uint32     `json:"resetErrorCode,omitempty"`
}

// TapJSON prints an event as one line of JSON, with Linkerd's field names.
func TapJSON(w io.Writer, e *tap.Event) error {
	j := tapEvent{
		Source:      endpoint(e.GetSource()),
		Destination: endpoint(e.GetDestination()),
		RouteMeta:   e.GetRoute(),
		Direction:   map[string]string{"in": "INBOUND", "out": "OUTBOUND"}[e.GetDirection()],
		TLS:         e.GetTls(),
	}
	id := tapID{Base: e.GetBase(), Stream: e.GetStream()}
	switch p := e.GetPhase().(type) {
	case *tap.Event_Request:
		r := p.Request
		j.Request = &tapRequest{ID: id, Method: r.GetMethod(), Scheme: strings.ToUpper(r.GetScheme()), Authority: r.GetAuthority(), Path: r.GetPath(), Headers: headers(r.GetHeaders())}
	case *tap.Event_Response:
		r := p.Response
		j.Response = &tapResponse{ID: id, Since: duration(r.GetSinceRequestUs()), Status: r.GetStatus(), Headers: headers(r.GetHeaders())}
	case *tap.Event_End:
		r := p.End
		j.End = &tapEnd{ID: id, SinceRequest: duration(r.GetSinceRequestUs()), SinceResponse: duration(r.GetSinceResponseUs()), Bytes: r.GetResponseBytes(), Trailers: headers(r.GetTrailers()), GrpcStatus: r.GrpcStatus, Reset: r.Reset_}
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(j)
}

func endpoint(p *tap.Peer) tapEndpoint {
	return tapEndpoint{IP: p.GetIp(), Port: p.GetPort(), Metadata: p.GetLabels()}
}

func duration(us uint64) tapDuration { return tapDuration{Seconds: us / 1e6, Nanos: us % 1e6 * 1000} }

func headers(fields []*tap.Field) []tapHeader {
	var out []tapHeader
	for _, f := range fields {
		h := tapHeader{Name: f.GetName()}
		if utf8.Valid(f.GetValue()) {
			h.Str = string(f.GetValue())
		} else {
			h.Bin = base64.StdEncoding.EncodeToString(f.GetValue())
		}
		out = append(out, h)
	}
	return out
}
