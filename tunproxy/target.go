package tunproxy

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/balance"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/exchange"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/orig"
	"github.com/tunmesh/tunmesh/tunproxy/route"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
	"github.com/tunmesh/tunmesh/tunproxy/upstream"
)

// target is what one loop keeps about what is behind an address: the balancer,
// and what connections to it turned out to be.
type target struct {
	w    *worker
	t    *discover.Target
	dst  netip.AddrPort
	snap *discover.Snapshot // the one that set was made from
	stop func()             // of the subscription

	routes *route.Table[*balance.Set[place]]
	set    *balance.Set[place]
	// spoke is what the last connection turned out to speak; Detect before one.
	spoke flow.Protocol
	used  time.Duration
	users int // HTTP connections of apps

	queue queue
	ill   int // endpoints whose breakers keep requests from them

	http   telemetry.HTTP // of requests without an endpoint
	hasTel bool
	route  telemetry.Route // of the only rule that there is
	conns  conns

	terms   *exchange.Terms // nil: the Service's owner asked for nothing
	retries *retries        // nil: no retries were asked for yet
}

// place is what is kept with each endpoint of a target. There may be very many,
// most of which nobody goes to.
type place struct {
	index int       // in the snapshot
	used  *endpoint // nil: not in use
}

// endpoint is one endpoint of a target that is in use.
type endpoint struct {
	tg      *target
	member  *balance.Member[place]
	up      upstream.Endpoint
	from    discover.Endpoint
	groups  [2]*upstream.Group // by upstream.Kind; held
	breaker *breaker           // nil: nothing asked for one yet
	http    telemetry.HTTP
	hasTel  bool
}

// target finds or makes the loop's view of t.
func (w *worker) target(t *discover.Target, dst netip.AddrPort) *target {
	tg := w.targets[t]
	if tg == nil {
		tg = &target{w: w, t: t, dst: dst, set: balance.New[place](balance.Config{Rand: w.rand.Uint64, Active: activeEndpoints})}
		tg.routes = route.Default(tg.set)
		tg.refresh()
		tg.stop = t.Subscribe(w.loop, tg.refresh)
		w.targets[t] = tg
	}
	tg.used = w.loop.Now()
	return tg
}

// refresh takes the last snapshot in: endpoints that stay keep their statistics
// and connections; those of endpoints that left, or are somebody else now, drain.
func (tg *target) refresh() {
	s := tg.t.Load()
	if s == tg.snap {
		return
	}
	first := tg.snap == nil
	tg.snap = s
	tg.setTerms(s.Traffic)
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if m := tg.set.Get(e.Addr); m != nil && m.Value.used != nil && m.Value.used.up != tg.upstream(e) {
			tg.set.Remove(m) // same address, other workload
			m.Value.used.release()
		}
	}
	before := tg.set.Len()
	removed := tg.set.Update(len(s.Endpoints), func(i int) balance.Endpoint {
		return balance.Endpoint{Addr: s.Endpoints[i].Addr, Weight: s.Endpoints[i].Weight}
	})
	for _, b := range []telemetry.Balancer{tg.queue.metrics, tg.queue.bytes} {
		b.Updated(tg.set.Len()-before+len(removed), len(removed))
	}
	for _, m := range removed {
		if e := m.Value.used; e != nil {
			e.release()
		}
	}
	for i := range s.Endpoints {
		m := tg.set.Get(s.Endpoints[i].Addr)
		m.Value.index = i
		if e := m.Value.used; e != nil {
			e.from = s.Endpoints[i]
		}
	}
	if first && tg.set.Len() == 0 {
		tg.queue.gate.Never(tg.w.loop.Now())
	}
	tg.assess()
}

// use is the endpoint that a member stands for; nil for nil.
func (tg *target) use(m *balance.Member[place]) *endpoint {
	if m == nil {
		return nil
	}
	if m.Value.used == nil {
		from := tg.snap.Endpoints[m.Value.index]
		m.Value.used = &endpoint{tg: tg, member: m, from: from, up: tg.upstream(&from)}
	}
	return m.Value.used
}

// upstream is how an endpoint is reached: over the wire, or, if it is this very
// pod, on the app side, as from the target's own address (a packet from the
// pod's address to itself would be a martian).
func (tg *target) upstream(e *discover.Endpoint) upstream.Endpoint {
	if slices.Contains(tg.w.p.cfg.Addrs, e.Addr.Addr()) {
		return upstream.Endpoint{Side: aio.App, Addr: e.Addr, Src: tg.dst.Addr()}
	}
	return upstream.Endpoint{Side: aio.Wire, Addr: e.Addr, Src: tg.w.p.source(e.Addr.Addr()), ID: e.Identity()}
}

// hint is what the control plane knows about the protocol.
func (tg *target) hint() flow.Protocol {
	if p := tg.snap.Protocol; p != flow.Detect || len(tg.snap.Endpoints) == 0 {
		return p
	}
	// What the endpoints say of themselves counts where they agree.
	p := tg.snap.Endpoints[0].Protocol
	for i := range tg.snap.Endpoints {
		if tg.snap.Endpoints[i].Protocol != p {
			return flow.Detect
		}
	}
	return p
}

// proven: requests reached the target before, and a connection for more is there,
// or breakers keep requests away: then they get an answer that says so.
func (tg *target) proven() bool {
	if !tg.spoke.IsHTTP() {
		return false
	}
	if tg.resting() {
		return true
	}
	live := false
	tg.set.All(func(m *balance.Member[place]) bool {
		if e := m.Value.used; e != nil {
			for _, g := range e.groups {
				live = live || g != nil && g.Live()
			}
		}
		return !live
	})
	return live
}

// resting: there are endpoints, and circuit breakers keep requests from all of them.
func (tg *target) resting() bool { return tg.set.Ready() == 0 && tg.set.Len() > 0 }

// pick chooses an endpoint, none of those tried.
func (tg *target) pick(tried []*endpoint) *endpoint {
	return tg.use(tg.set.Pick(tg.w.loop.Now(), func(m *balance.Member[place]) bool {
		return m.Value.used != nil && slices.Contains(tried, m.Value.used)
	}))
}

// plain: the control plane said that nobody there speaks mTLS, or it is us.
func (e *endpoint) plain() bool { return e.up.ID.IsZero() }

// peer describes the far end of a connection to e.
func (e *endpoint) peer(p flow.Protocol, sni string) flow.Peer {
	peer := flow.Peer{Addr: e.up.Addr}
	switch {
	case !e.plain():
		peer.Security, peer.ID = flow.Mutual, e.up.ID
	case e.up.Side == aio.App:
		peer.Reason = flow.Loopback
	case p == flow.TLS:
		peer.Security, peer.SNI = flow.Passthrough, sni
	default:
		peer.Reason = flow.NotMeshed
	}
	return peer
}

// labels describe a connection to e, or a request.
func (e *endpoint) labels(p flow.Protocol, sni string) telemetry.Labels {
	return telemetry.Labels{
		Direction: flow.Outbound,
		Target:    e.up.Addr,
		Peer:      e.peer(p, sni),
		Authority: e.tg.snap.Authority,
		Dst:       []map[string]string{e.tg.snap.Labels, e.from.Labels()},
	}
}

// clientLabels describe the app's end of a connection to the target.
func (tg *target) clientLabels() telemetry.Labels {
	return telemetry.Labels{
		Direction: flow.Outbound,
		Target:    tg.dst,
		Peer:      flow.Peer{Reason: flow.Loopback},
		Authority: tg.snap.Authority,
		Dst:       []map[string]string{tg.snap.Labels},
	}
}

// release lets go of all endpoints, and of the watch.
func (tg *target) release() {
	tg.stop()
	if tg.hasTel {
		tg.http.Release()
	}
	tg.retries.release()
	tg.route.Release()
	tg.route = telemetry.Route{}
	tg.conns.to.Release()
	tg.conns.detect.Release()
	tg.conns = conns{}
	removed := tg.set.Update(0, nil)
	for _, m := range removed {
		if e := m.Value.used; e != nil {
			e.release()
		}
	}
	tg.countEndpoints()
	tg.queue.metrics.Release()
	tg.queue.bytes.Release()
	tg.queue.metrics, tg.queue.bytes = telemetry.Balancer{}, telemetry.Balancer{}
}

// metrics is the handle for requests that found no endpoint.
func (tg *target) metrics() telemetry.HTTP {
	if !tg.hasTel {
		l := tg.clientLabels()
		l.Peer = flow.Peer{}
		tg.http, tg.hasTel = tg.w.p.cfg.Metrics.HTTP.Handle(&l), true
	}
	return tg.http
}

// metrics is the handle for requests to e.
func (e *endpoint) metrics() telemetry.HTTP {
	if !e.hasTel {
		l := e.labels(flow.HTTP1, "")
		e.http, e.hasTel = e.tg.w.p.cfg.Metrics.HTTP.Handle(&l), true
	}
	return e.http
}

// group is the pool's connections to e that speak so; held while e is there.
func (e *endpoint) group(k upstream.Kind) *upstream.Group {
	if e.groups[k] == nil {
		e.groups[k] = e.tg.w.pool.Hold(e.up, k)
		if e.member.Removed() { // a last stream to an endpoint that left
			e.groups[k].Release()
		}
	}
	return e.groups[k]
}

// activeEndpoints is how many of a target's endpoints are in use at a time, while
// they have little to do: each costs a connection, with its memory on both sides
// and a PING every two seconds. A few hundred share load evenly.
const activeEndpoints = 256

// rotate gives other endpoints of a large target their turn. Connections of those
// that had theirs close, unless they are soon in use again.
func (tg *target) rotate() {
	for range 1 + max(tg.set.Active()-activeEndpoints, 0)/4 {
		m := tg.set.Rotate()
		if m == nil {
			return
		}
		if e := m.Value.used; e != nil {
			e.rest()
		}
	}
}

// rest lets go of what an endpoint holds that had its turn. Nothing is under way
// to it.
func (e *endpoint) rest() {
	e.letGo()
	e.uncount()
	if e.breaker == nil {
		e.member.Value.used = nil
	}
}

// letGo gives up e's connections; streams under way finish.
func (e *endpoint) letGo() {
	for k, g := range e.groups {
		if g != nil {
			g.Release()
			e.groups[k] = nil
		}
	}
}

// release lets go of what e holds; streams under way finish, and are counted.
func (e *endpoint) release() {
	e.dismiss()
	e.letGo()
	e.settle()
}

// settle gives the handle for metrics back when nobody needs it any more.
func (e *endpoint) settle() {
	if e.member.Removed() && e.member.Pending() == 0 {
		e.uncount()
	}
}

func (e *endpoint) uncount() {
	if e.hasTel {
		e.http.Release()
		e.hasTel = false
	}
}

// translator prepares requests for a connection to e: the hop for requests has
// a language of its own, the one for upgrades is HTTP/1 as it is.
func (e *endpoint) translator(k upstream.Kind) exchange.Translator {
	switch {
	case e.plain():
		return orig.ToServer{}
	case k == upstream.HTTP1:
		return orig.FromClient{}
	}
	return e.tg.w.toSidecar
}

func (e *endpoint) begin() { e.member.Begin() }

// end closes the account of a byte connection.
func (e *endpoint) end(o balance.Outcome, rtt time.Duration) {
	e.member.End(e.tg.w.loop.Now(), o, rtt)
	e.settle()
}

// Ended implements exchange.Endpoint.
func (e *endpoint) Ended(o exchange.Outcome, firstByte time.Duration) {
	now := e.tg.w.loop.Now()
	switch o {
	case exchange.Success:
		e.member.End(now, balance.Success, firstByte)
	case exchange.Canceled:
		e.member.End(now, balance.Canceled, firstByte)
	default:
		e.member.End(now, balance.Failure, firstByte)
	}
	e.settle()
}

var _ exchange.Endpoint = (*endpoint)(nil)
