package tunproxy

import (
	"maps"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/exchange"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/tap"
)

// tapped shows exchanges to whoever watches. Without a watcher it costs one
// atomic load for each request.
type tapped struct {
	p   *Proxy
	hub *tap.Hub
}

// Request implements exchange.Observer.
func (o tapped) Request(x *exchange.Exchange) {
	if !o.hub.Active() {
		return
	}
	m := ends(x)
	if s := o.hub.Begin(&m, x.Request()); s != nil {
		o.describe(&m, x)
		s.Show(&m, x.Request())
		x.Memo = s
	}
}

// Response implements exchange.Observer.
func (tapped) Response(x *exchange.Exchange, h *message.Head) {
	if s, ok := x.Memo.(*tap.Span); ok {
		s.Response(h)
	}
}

// End implements exchange.Observer.
func (tapped) End(x *exchange.Exchange, r *exchange.Result) {
	if s, ok := x.Memo.(*tap.Span); ok {
		s.End(tap.Result{Bytes: r.ResponseBytes, GRPC: r.GRPCStatus, WasReset: r.WasReset, Reset: r.Reset, Trailers: r.Trailers})
	}
}

// ends are the addresses of an exchange: what taps match.
func ends(x *exchange.Exchange) tap.Meta {
	f := x.Flow()
	m := tap.Meta{Direction: f.Direction, Source: tap.Peer{Addr: f.Client}, Destination: tap.Peer{Addr: f.OrigDst}}
	if e, ok := x.Endpoint().(*endpoint); ok && f.Direction == flow.Outbound {
		m.Destination.Addr = e.up.Addr
	}
	return m
}

// describe adds what is known of both ends here.
func (o tapped) describe(m *tap.Meta, x *exchange.Exchange) {
	m.Route = map[string]string{"kind": "default", "name": "http"}
	own := o.p.policy().Labels()
	if f := x.Flow(); f.Direction == flow.Inbound {
		m.Source.Labels, m.Destination.Labels = identified(nil, "client_id", f.Peer), own
		m.TLS = tlsOf(f.Peer)
		return
	}
	m.Source.Labels = own
	if e, ok := x.Endpoint().(*endpoint); ok {
		peer := e.peer(flow.HTTP1, "")
		labels := maps.Clone(e.tg.snap.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, e.from.Labels())
		m.Destination.Labels = identified(labels, "server_id", peer)
		m.TLS = tlsOf(peer)
	}
}

func identified(labels map[string]string, name string, p flow.Peer) map[string]string {
	if labels == nil {
		labels = map[string]string{}
	}
	labels["tls"] = tlsOf(p)
	if p.Security == flow.Mutual {
		labels[name] = p.ID.ServerName()
	}
	return labels
}

// tlsOf is "true", or the reason of none.
func tlsOf(p flow.Peer) string {
	if p.Security == flow.NoTLS {
		return p.Reason.String()
	}
	return p.TLSLabel()
}

// watchPackets shows packets of both sides; the app's are those that it sends and
// gets, as they were before encryption and are after.
func (p *Proxy) watchPackets(f func(app, sent bool, parts [][]byte, size int)) {
	if f == nil {
		p.stack.Watch(nil)
		return
	}
	p.stack.Watch(func(side aio.Side, sent bool, parts [][]byte, size int) { f(side == aio.App, sent, parts, size) })
}
