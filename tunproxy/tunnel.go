package tunproxy

import (
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/exchange"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// tunnels reports whether a request asks to become a stream of bytes: what
// follows it is judged by nobody, and can be any request of another protocol.
func tunnels(h *message.Head) bool { return h.Upgrade || h.Method == "CONNECT" }

// wantsUpgrade reports that an extended CONNECT has to go to the app as an upgrade
// of HTTP/1: over HTTP/2 the app does not take it, or was asked before and there
// is no connection that would. s is a stream of such a connection; nil without one.
func wantsUpgrade(x *exchange.Exchange, s message.Stream) bool {
	takes, known := false, false
	if c, ok := s.(interface{ ExtendedConnect() (takes, known bool) }); ok {
		takes, known = c.ExtendedConnect()
	}
	return known && !takes || !known && x.Attempts() > 0
}

// inboundTunnel is a request to the app that became, or may become, a stream of
// bytes. Policy may close it like other byte connections. It stands for the app
// in the exchange's books, so that it hears of the end.
type inboundTunnel struct {
	r *inboundRequests
	x *exchange.Exchange
}

func (r *inboundRequests) tunnel(x *exchange.Exchange) exchange.Endpoint {
	t := &inboundTunnel{r: r, x: x}
	r.w.tunnels[t] = struct{}{}
	return t
}

// Ended implements exchange.Endpoint.
func (t *inboundTunnel) Ended(exchange.Outcome, time.Duration) { delete(t.r.w.tunnels, t) }

// recheck closes the tunnel if policy does not allow it any more.
func (t *inboundTunnel) recheck() {
	if d := t.r.w.p.judge(&t.r.flow); !d.Allow {
		t.r.w.p.terminated(&t.r.flow, d)
		t.x.Revoke()
	}
}

var _ exchange.Endpoint = (*inboundTunnel)(nil)
