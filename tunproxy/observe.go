package tunproxy

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/authz"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/exchange"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
	"github.com/tunmesh/tunmesh/tunproxy/tracing"
)

// refused notes a connection that reached nobody.
func (p *Proxy) refused(f *flow.Flow, err error) {
	p.cfg.Metrics.TCPError(f.Direction, kindOf(err))
	if p.cfg.Logger.Enabled(context.Background(), slog.LevelDebug) { // attributes cost more than the question
		p.cfg.Logger.Debug("connection refused", "direction", f.Direction, "client", f.Client, "to", f.OrigDst, "error", err)
	}
}

// kindOf sorts errors into few kinds, for labels.
func kindOf(err error) string {
	for _, k := range []struct {
		err  error
		name string
	}{
		{aio.ErrRefused, "refused"},
		{aio.ErrTimeout, "timeout"},
		{aio.ErrUnreachable, "unreachable"},
		{aio.ErrReset, "reset"},
		{discover.ErrNoAnswer, "discovery timeout"},
		{discover.ErrTooMany, "too many targets"},
		{errDenied, "unauthorized"},
		{errDraining, "draining"},
		{errUnproven, "unproven client"},
		{mtls.ErrIdentity, "wrong identity"},
		{mtls.ErrUntrusted, "untrusted"},
		{mtls.ErrExpired, "expired certificate"},
		{mtls.ErrNoCertificate, "no certificate"},
		{mtls.ErrProtocol, "unknown protocol"},
		{mtls.ErrServerName, "unknown server name"},
		{mtls.ErrRefusedByPeer, "refused by the peer"},
		{mtls.ErrBusy, "too many handshakes"},
		{errNoEndpoint, "no endpoint"},
	} {
		if errors.Is(err, k.err) {
			return k.name
		}
	}
	return "i/o"
}

// handshakeFailed notes a client that did not prove who it is.
func (p *Proxy) handshakeFailed(f *flow.Flow, err error) {
	p.cfg.Metrics.HandshakeFailure(f.Direction, kindOf(err))
	if n, ok := p.handshakes.admit(time.Now()); ok {
		p.cfg.Logger.Info("client was refused", "client", f.Client, "to", f.OrigDst, "error", err, "unlogged", n)
	}
}

// sometimes lets one line a second into the log, for what strangers can cause.
type sometimes struct {
	last    atomic.Int64 // Unix seconds
	dropped atomic.Int64
}

// admit reports whether to log now, and how many lines were dropped since.
func (s *sometimes) admit(now time.Time) (dropped int64, ok bool) {
	second, last := now.Unix(), s.last.Load()
	if second == last || !s.last.CompareAndSwap(last, second) {
		s.dropped.Add(1)
		return 0, false
	}
	return s.dropped.Swap(0), true
}

// judge asks policy about a byte connection.
func (p *Proxy) judge(f *flow.Secured) *authz.Decision {
	return p.policy().Authz().Connection(f.OrigDst.Port(), authz.Client{Addr: f.Client.Addr(), ID: f.Peer.ID})
}

// judged counts what policy said of a byte connection.
func (p *Proxy) judged(f *flow.Secured, d *authz.Decision) {
	family := p.cfg.Metrics.TCPDenied
	if d.Allow {
		family = p.cfg.Metrics.TCPAllowed
	}
	p.count(family, f, d)
	p.noteDecision("connection judged", f, d, "")
}

// noteDecision logs what an audit wants to see, each one, and denials now and then.
func (p *Proxy) noteDecision(what string, f *flow.Secured, d *authz.Decision, method string) {
	dropped := int64(0)
	switch {
	case d.Audit:
	case d.Allow:
		return
	default:
		var ok bool
		if dropped, ok = p.denials.admit(time.Now()); !ok {
			return
		}
	}
	p.cfg.Logger.Info(what, "allowed", d.Allow, "reason", d.Reason, "client", f.Client, "identity", f.Peer.ID, "to", f.OrigDst, "method", method, "unlogged", dropped)
}

func (p *Proxy) count(family *telemetry.Counters, f *flow.Secured, d *authz.Decision) {
	l := p.inboundLabels(f)
	judgedBy(&l, d, f)
	h := family.Handle(&l)
	h.Inc()
	h.Release()
}

// terminated counts a byte connection that policy does not allow any more.
func (p *Proxy) terminated(f *flow.Secured, d *authz.Decision) {
	p.count(p.cfg.Metrics.TCPTerminated, f, d)
	p.cfg.Logger.Info("connection closed by a changed policy", "reason", d.Reason, "client", f.Client, "identity", f.Peer.ID, "to", f.OrigDst)
}

// judgeRequest asks policy about a request. One that asks for a tunnel is no
// probe, whatever its path: it is judged as the bytes that it wants to become.
func (p *Proxy) judgeRequest(f *flow.Secured, h *message.Head) *authz.Decision {
	var d *authz.Decision
	if tunnels(h) {
		d = p.judge(f)
	} else {
		d = p.policy().Authz().Request(f.OrigDst.Port(), authz.Client{Addr: f.Client.Addr(), ID: f.Peer.ID}, h.Method, h.Path)
	}
	p.noteDecision("request judged", f, d, h.Method)
	return d
}

// isProbe: the kubelet asks, not a user. It has no sidecar, so who proved an
// identity is somebody else.
func (p *Proxy) isProbe(f *flow.Secured, h *message.Head) bool {
	return f.Peer.ID.IsZero() && !tunnels(h) && p.policy().Authz().IsProbe(f.OrigDst.Port(), h.Method, h.Path)
}

// inboundLabels describe the client's end of an inbound connection.
func (p *Proxy) inboundLabels(f *flow.Secured) telemetry.Labels {
	return telemetry.Labels{Direction: flow.Inbound, Target: f.OrigDst, Peer: f.Peer}
}

// appLabels describe the app's end.
func (p *Proxy) appLabels(f *flow.Secured) telemetry.Labels {
	return telemetry.Labels{Direction: flow.Inbound, Target: f.OrigDst, Peer: flow.Peer{Reason: flow.Loopback}}
}

// requestMetrics counts exchanges. The handle with their labels is found by
// whoever opened them; there is none for those that attemptMetrics counts.
type requestMetrics struct{ m *telemetry.Metrics }

// measured is an Opener that knows the labels of its exchanges.
type measured interface {
	handle(x *exchange.Exchange) telemetry.HTTP
	// ended counts one by rule.
	ended(x *exchange.Exchange, r *exchange.Result)
}

// Request implements exchange.Observer.
func (m requestMetrics) Request(x *exchange.Exchange) { handleOf(x).Request() }

// Response implements exchange.Observer.
func (requestMetrics) Response(*exchange.Exchange, *message.Head) {}

// End implements exchange.Observer.
func (m requestMetrics) End(x *exchange.Exchange, r *exchange.Result) {
	if o, ok := x.Opener().(measured); ok {
		o.handle(x).Response(responseOf(x, endOf(r)))
		o.ended(x, r)
	}
	if e, ok := x.Endpoint().(*endpoint); ok {
		e.tg.route.Body(telemetry.Frames(r.ResponseFrames))
	}
	if r.ProxyError != "" {
		m.m.HTTPError(x.Flow().Direction, r.ProxyError)
	}
}

func responseOf(x *exchange.Exchange, a exchange.Answer) telemetry.Response {
	r := telemetry.Response{Status: a.Status, GRPC: a.GRPCStatus, Latency: a.Total, Redelivered: a.Redelivered}
	if s, ok := x.Span.(*tracing.Span); ok { // of whichever format, or begun here
		r.TraceID = s.Trace
	} else {
		r.Trace, _ = x.RequestField("traceparent")
	}
	switch {
	case a.WasReset:
		r.Error = "h2(" + a.Reset.String() + ")"
	case a.Status == 0:
		r.Error = "unexpected"
	}
	return r
}

// attemptMetrics counts requests where they go, each time, as Linkerd does: of one
// that is sent again, every endpoint has a request and a response.
type attemptMetrics struct{}

// Sent implements exchange.Attempts.
func (attemptMetrics) Sent(x *exchange.Exchange) {
	if e, ok := x.Endpoint().(*endpoint); ok {
		e.metrics().Request()
		e.tg.route.Sent()
		if x.Attempts() == 0 && !x.Retried() {
			e.tg.queue.metrics.Waited(e.tg.w.loop.Now() - x.Began())
		}
	}
}

// Over implements exchange.Attempts.
func (attemptMetrics) Over(x *exchange.Exchange, a exchange.Answer) {
	if e, ok := x.Endpoint().(*endpoint); ok {
		e.metrics().Response(responseOf(x, a))
		e.tg.route.Answered(answerOf(a, a.WasReset))
	}
}

// answerOf is an answer as the families of routes name it. What the sidecar itself
// said is an error without a status; begun: it cut short what an endpoint said.
func answerOf(a exchange.Answer, begun bool) telemetry.Answer {
	r := telemetry.Answer{Status: a.Status, Error: errorLabel(a.ProxyError, a.WasReset, a.Reset), Took: a.Total}
	switch {
	case begun && a.ProxyError == exchange.ErrResponseTimeout.Name:
		r.Error = "RESPONSE_STREAM_TIMEOUT"
	case !begun && a.ProxyError != "" && r.Error != "":
		r.Status = 0
	}
	return r
}

// endOf is how an exchange ended, as an endpoint's answer.
func endOf(r *exchange.Result) exchange.Answer {
	return exchange.Answer{Status: r.Status, GRPCStatus: r.GRPCStatus, WasReset: r.WasReset, Reset: r.Reset, ProxyError: r.ProxyError, Total: r.Total}
}

// errorLabel is Linkerd's name of an error.
func errorLabel(proxyError string, wasReset bool, code message.Code) string {
	switch proxyError {
	case "":
	case exchange.ErrNoRoute.Name, exchange.ErrDenied.Name, exchange.ErrMalformed.Name:
		return "" // the status says it
	case exchange.ErrFailfast.Name, exchange.ErrNoEndpoint.Name, exchange.ErrTimeout.Name:
		return "FAIL_FAST"
	case exchange.ErrOverload.Name:
		return "LOAD_SHED"
	case exchange.ErrRequestTimeout.Name:
		return "REQUEST_TIMEOUT"
	case exchange.ErrResponseTimeout.Name:
		return "RESPONSE_HEADERS_TIMEOUT"
	case exchange.ErrIdleTimeout.Name:
		return "IDLE_TIMEOUT"
	case exchange.ErrReset.Name:
		return "RESET"
	case exchange.ErrBroken.Name, exchange.ErrRefusedEverywhere.Name:
		return "IO"
	default:
		return "UNKNOWN"
	}
	if !wasReset || code == message.NoError {
		return ""
	}
	switch code {
	case message.Cancel:
		return "CANCEL"
	case message.RefusedStream:
		return "REFUSED"
	case message.EnhanceYourCalm:
		return "ENHANCE_YOUR_CALM"
	}
	return "RESET"
}

func handleOf(x *exchange.Exchange) telemetry.HTTP {
	if o, ok := x.Opener().(measured); ok {
		return o.handle(x)
	}
	return telemetry.HTTP{}
}

// collect prints what only a stack of one's own can say.
func (p *Proxy) collect(w *telemetry.Writer) {
	c := p.stack.Counters()
	sides := []aio.Side{aio.App, aio.Wire}
	side := func(s aio.Side) telemetry.Label { return telemetry.Label{Name: "side", Value: s.String()} }
	for _, m := range []struct {
		name, help string
		get        func(s aio.Side) uint64
	}{
		{"netstack_rx_packets_total", "Total count of packets read from the side's device.", func(s aio.Side) uint64 { return c.Side(s).RxPackets }},
		{"netstack_tx_packets_total", "Total count of packets written to the side's device.", func(s aio.Side) uint64 { return c.Side(s).TxPackets }},
		{"netstack_rx_bytes_total", "Total count of bytes read from the side's device.", func(s aio.Side) uint64 { return c.Side(s).RxBytes }},
		{"netstack_tx_bytes_total", "Total count of bytes written to the side's device.", func(s aio.Side) uint64 { return c.Side(s).TxBytes }},
		{"netstack_read_errors_total", "Total count of failed reads from the side's device.", func(s aio.Side) uint64 { return c.Side(s).ReadErrors }},
		{"netstack_write_errors_total", "Total count of packets that the side's device did not take.", func(s aio.Side) uint64 { return c.Side(s).WriteErrors }},
		{"netstack_forwarded_udp_total", "Total count of UDP packets forwarded from this side to the other.", func(s aio.Side) uint64 { return c.Side(s).ForwardedUDP }},
		{"netstack_forwarded_icmp_total", "Total count of ICMP packets forwarded from this side to the other.", func(s aio.Side) uint64 { return c.Side(s).ForwardedICMP }},
		{"netstack_forwarded_other_total", "Total count of packets of listed protocols forwarded from this side to the other.", func(s aio.Side) uint64 { return c.Side(s).ForwardedOther }},
		{"netstack_syns_total", "Total count of connections asked for from this side.", func(s aio.Side) uint64 { return c.Side(s).SYNs }},
		{"netstack_accepted_total", "Total count of connections from this side that were accepted.", func(s aio.Side) uint64 { return c.Side(s).Accepted }},
		{"netstack_expired_total", "Total count of connections from this side that got no answer in time.", func(s aio.Side) uint64 { return c.Side(s).Expired }},
		{"netstack_dialled_total", "Total count of connections opened to this side.", func(s aio.Side) uint64 { return c.Side(s).Dialled }},
		{"netstack_resets_total", "Total count of segments of unknown connections that were answered with a reset.", func(s aio.Side) uint64 { return c.Side(s).Resets }},
		{"netstack_tcp_fragments_total", "Total count of pieces of TCP segments that came from this side.", func(s aio.Side) uint64 { return c.Side(s).TCPFragments }},
		{"netstack_refused_total", "Total count of connections from this side that were refused.", func(s aio.Side) uint64 { return c.Side(s).Refused }},
	} {
		w.Counter(m.name, m.help)
		for _, s := range sides {
			w.Sample(m.name, float64(m.get(s)), side(s))
		}
	}
	w.Counter("process_network_receive_bytes_total", "Total count of bytes that came to the pod from the network.")
	w.Sample("process_network_receive_bytes_total", float64(c.Wire.RxBytes))
	w.Counter("process_network_transmit_bytes_total", "Total count of bytes that the pod sent to the network.")
	w.Sample("process_network_transmit_bytes_total", float64(c.Wire.TxBytes))
	w.Counter("netstack_drops_total", "Total count of packets dropped, by the side they came from and the reason.")
	for _, s := range sides {
		for reason, n := range c.Side(s).Drops {
			if n > 0 {
				w.Sample("netstack_drops_total", float64(n), side(s), telemetry.Label{Name: "reason", Value: reason.String()})
			}
		}
	}
	w.Counter("netstack_tcp_invalid_segments_total", "Total count of TCP segments that were dropped as invalid.")
	w.Sample("netstack_tcp_invalid_segments_total", float64(c.TCP.InvalidSegments))
	w.Counter("netstack_tcp_resets_received_total", "Total count of resets that came for connections, whether they ended them or not.")
	w.Sample("netstack_tcp_resets_received_total", float64(c.TCP.ResetsReceived))
	w.Counter("netstack_tcp_queue_drops_total", "Total count of TCP segments for which a connection had no room.")
	w.Sample("netstack_tcp_queue_drops_total", float64(c.TCP.QueueDrops))
	w.Gauge("netstack_tcp_connections", "Number of TCP connections of both sides now.")
	w.Sample("netstack_tcp_connections", float64(c.TCP.Established))
	w.Counter("netstack_tcp_retransmits_total", "Total count of TCP segments sent again.")
	w.Sample("netstack_tcp_retransmits_total", float64(c.TCP.Retransmits))
	w.Counter("netstack_tcp_timeouts_total", "Total count of TCP retransmission timeouts.")
	w.Sample("netstack_tcp_timeouts_total", float64(c.TCP.Timeouts))
	w.Counter("opaque_hops_total", "Total count of byte streams opened to other sidecars, by whether their connection had carried one before.")
	w.Sample("opaque_hops_total", float64(p.hopsMade.Load()), telemetry.Label{Name: "reused", Value: "false"})
	w.Sample("opaque_hops_total", float64(p.hopsReused.Load()), telemetry.Label{Name: "reused", Value: "true"})
	w.Counter("netstack_tcp_narrowed_total", "Total count of connections whose path seems to swallow large packets, so that they send smaller ones.")
	w.Sample("netstack_tcp_narrowed_total", float64(c.Wire.Narrowed))
	if p.cfg.Identity != nil {
		w.Counter("tls_handshakes_waited_total", "Total count of handshakes that waited for their turn.")
		w.Sample("tls_handshakes_waited_total", float64(p.cfg.Identity.Waited()))
	}
	p.collectHTTP2(w)
	p.collectLimits(w)
	p.collectAccessLog(w)
	p.collectTracing(w)
}

// collectHTTP2 prints what HTTP/2 connections met, of apps and of sidecars.
func (p *Proxy) collectHTTP2(w *telemetry.Writer) {
	c := &p.h2
	for _, m := range []struct {
		name, help string
		n          uint64
	}{
		{"http2_streams_total", "Total count of HTTP/2 streams, opened by either side.", c.Streams.Load()},
		{"http2_refused_streams_total", "Total count of HTTP/2 streams refused as too many, or while draining.", c.Refused.Load()},
		{"http2_resets_total", "Total count of HTTP/2 streams reset by the peer.", c.Resets.Load()},
		{"http2_aborts_total", "Total count of HTTP/2 streams reset by the sidecar.", c.Aborts.Load()},
		{"http2_breaches_total", "Total count of HTTP/2 streams reset because the peer broke a rule.", c.Breaches.Load()},
		{"http2_oversize_total", "Total count of heads beyond the size that is taken.", c.Oversize.Load()},
		{"http2_paused_total", "Total count of times that a peer had sent more than is parsed at once, and others had their turn first.", c.Paused.Load()},
	} {
		w.Counter(m.name, m.help)
		w.Sample(m.name, float64(m.n))
	}
	w.Counter("http2_broken_total", "Total count of HTTP/2 connections that the sidecar broke, by the bound that was passed.")
	for _, b := range []struct {
		reason string
		n      uint64
	}{
		{"resets", c.ResetFloods.Load()},
		{"control frames", c.ControlFloods.Load()},
		{"empty frames", c.EmptyFloods.Load()},
		{"continuations", c.ContinuationFloods.Load()},
		{"header bombs", c.Bombs.Load()},
		{"unread answers", c.ReplyFloods.Load()},
		{"dead peer", c.DeadPeers.Load()},
		{"write stalled", c.WriteStalls.Load()},
		{"slow frame", c.SlowFrames.Load()},
		{"protocol", c.ProtocolErrors.Load()},
	} {
		w.Sample("http2_broken_total", float64(b.n), telemetry.Label{Name: "reason", Value: b.reason})
	}
}
