package tunproxy

import (
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/accesslog"
	"github.com/tunmesh/tunmesh/tunproxy/exchange"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
	"github.com/tunmesh/tunmesh/tunproxy/tracing"
)

// logged writes a line of the access log for each request to the pod. It is no
// observer where there is no such log.
type logged struct{ log *accesslog.Log }

// Request implements exchange.Observer.
func (logged) Request(*exchange.Exchange) {}

// Response implements exchange.Observer.
func (logged) Response(*exchange.Exchange, *message.Head) {}

// End implements exchange.Observer.
func (o logged) End(x *exchange.Exchange, r *exchange.Result) {
	f := x.Flow()
	if f.Direction != flow.Inbound {
		return
	}
	h := x.Request()
	e := accesslog.Entry{
		Client: f.Client, ID: f.Peer.ID, Time: time.Now().Add(-r.Total),
		Method: h.Method, Scheme: h.Scheme, Authority: h.Authority, Path: h.Path, Version: versionOf(h.Version),
		TraceID: traceOf(h), Status: r.Status, RequestBytes: r.RequestBytes, ResponseBytes: r.ResponseBytes,
		Head: r.FirstByte, Whole: r.Total,
	}
	if e.Scheme == "" {
		e.Scheme = "http"
	}
	e.UserAgent, _ = h.Get("user-agent")
	o.log.Add(&e)
}

// versionOf is what the client's connection speaks; between sidecars that is not
// what the client's app does.
func versionOf(v message.Version) string {
	switch v {
	case message.HTTP10:
		return "HTTP/1.0"
	case message.HTTP11:
		return "HTTP/1.1"
	}
	return "HTTP/2.0"
}

// traceOf is what tells a request apart from others: its trace, in whichever
// format, or else what some other tool gave it.
func traceOf(h *message.Head) string {
	if p := tracing.Extract(h.Fields); p.ID() != "" {
		return p.ID()
	}
	for _, name := range []string{"x-request-id", "x-amzn-trace-id"} {
		if v, ok := h.Get(name); ok {
			return v
		}
	}
	return ""
}

// collectAccessLog prints what the access log lost.
func (p *Proxy) collectAccessLog(w *telemetry.Writer) {
	if l := p.cfg.AccessLog; l != nil {
		w.Counter("access_log_dropped_total", "Total count of lines of the access log that were lost, because they were not taken in time or could not be written.")
		w.Sample("access_log_dropped_total", float64(l.Dropped()))
	}
}
