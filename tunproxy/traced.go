package tunproxy

import (
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/exchange"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
	"github.com/tunmesh/tunmesh/tunproxy/tracing"
)

// traced makes a span of each request that is sampled: one of a client's kind of
// what leaves the pod, one of a server's of what comes to it. It is no observer
// where nobody traces.
type traced struct{ t *tracing.Tracer }

// Request implements exchange.Observer: it continues the trace in the exchange's
// own copy of the head, from which each attempt is made.
func (o traced) Request(x *exchange.Exchange) {
	h := x.Request()
	if h.Untraced {
		return
	}
	p := tracing.Extract(h.Fields)
	if !o.t.Sample(&p) {
		// Who decided by ratio tells the next sidecar, so that a trace has all of its
		// spans or none.
		h.Untraced = p.Decision == tracing.Undecided
		return
	}
	s := o.t.Begin(&p)
	h.Fields = s.Inject(h.Fields, &p)
	x.Span = s
}

// Response implements exchange.Observer.
func (traced) Response(*exchange.Exchange, *message.Head) {}

// End implements exchange.Observer.
func (o traced) End(x *exchange.Exchange, r *exchange.Result) {
	s, ok := x.Span.(*tracing.Span)
	if !ok {
		return
	}
	f, h, now := x.Flow(), x.Request(), time.Now()
	e := tracing.Entry{
		Server: f.Direction == flow.Inbound, Start: now.Add(-r.Total), End: now,
		Method: h.Method, Scheme: h.Scheme, Authority: h.Authority, Path: h.Path, Version: httpVersion(h.Version),
		GRPC: isGRPC(h), Status: r.Status, GRPCStatus: r.GRPCStatus, Failure: failureOf(r), Resends: r.Retries,
	}
	if e.Scheme == "" {
		e.Scheme = "http"
	}
	if e.Server {
		e.Client, e.Peer, e.ID = f.Client, f.Client, f.Peer.ID
		e.UserAgent, _ = h.Get("user-agent")
	} else if to, ok := x.Endpoint().(*endpoint); ok {
		e.Peer, e.ID = to.up.Addr, to.up.ID
	}
	o.t.End(s, &e)
}

// httpVersion is the version of HTTP, as network.protocol.version has it.
func httpVersion(v message.Version) string {
	switch v {
	case message.HTTP10:
		return "1.0"
	case message.HTTP11:
		return "1.1"
	}
	return "2"
}

func isGRPC(h *message.Head) bool {
	if h.Version != message.HTTP2 {
		return false
	}
	t, _ := h.Get("content-type")
	return strings.HasPrefix(t, "application/grpc")
}

// failureOf names what the status does not tell: an error of the sidecar's own, or
// a response that is not whole.
func failureOf(r *exchange.Result) string {
	switch {
	case r.ProxyError != "":
		return r.ProxyError
	case r.WasReset && r.Reset != message.NoError:
		return r.Reset.String()
	case r.Status == 0:
		return "unanswered"
	}
	return ""
}

// collectTracing prints what became of spans.
func (p *Proxy) collectTracing(w *telemetry.Writer) {
	if p.cfg.Tracer == nil {
		return
	}
	c := p.cfg.Tracer.Counts()
	w.Counter("opentelemetry_span_exports_total", "Total count of spans that the collector took.")
	w.Sample("opentelemetry_span_exports_total", float64(c.Exported))
	w.Counter("opentelemetry_span_export_requests_total", "Total count of exports to the collector, each of many spans.")
	w.Sample("opentelemetry_span_export_requests_total", float64(c.Requests))
	w.Counter("opentelemetry_span_export_streams_total", "Total count of connections made to the collector.")
	w.Sample("opentelemetry_span_export_streams_total", float64(c.Connections))
	w.Counter("opentelemetry_span_drops_total", "Total count of spans that were lost, by reason.")
	for _, d := range []struct {
		reason string
		n      uint64
	}{{"queue full", c.Overflowed}, {"collector away", c.Unreachable}, {"rejected", c.Rejected}} {
		w.Sample("opentelemetry_span_drops_total", float64(d.n), telemetry.Label{Name: "reason", Value: d.reason})
	}
	w.Gauge("opentelemetry_spans_waiting", "Number of spans that wait for the collector now.")
	w.Sample("opentelemetry_spans_waiting", float64(c.Waiting))
}
