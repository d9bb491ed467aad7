package tunproxy

import (
	"errors"
	"fmt"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/tunproxy/balance"
	"github.com/tunmesh/tunmesh/tunproxy/detect"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/mux"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
	"github.com/tunmesh/tunmesh/tunproxy/upstream"
)

// silence is how long an app's client may say nothing before a byte hop is
// opened for it, so that a server which speaks first is heard, and before what it
// said, if that decides nothing, is shown to the server. Linkerd waits 10 s; a
// client that is about to speak does so within a few milliseconds.
const silence = 20 * time.Millisecond

// restLook is how often a silent client's endpoints are looked at while all rest:
// a breaker's shortest rest.
const restLook = time.Second

// maxDials bounds how many endpoints one connection is offered to.
const maxDials = 5

// outbound is a connection of the pod's app on its way out. Its methods lie in
// the order in which they happen:
//
//	found ─▶ dial ─▶ accept ─▶ sniff ─┬─ HTTP ───▶ serve requests
//	                   │              └─ bytes ──▶ hop ─▶ forward
//	                   └─ silent: hop, and sniff both ends
type outbound struct {
	w     *worker
	p     pending
	flow  flow.Secured
	tg    *target
	tried []*endpoint
	last  error // why the endpoint tried last did not serve

	began time.Duration // when the SYN came
	delay time.Duration // from then to the first answer of an endpoint
	heard time.Duration // when the client was accepted

	ep        *endpoint     // where up leads; charged until ended
	up        aio.Conn      // TCP to ep; with hopped, ready for bytes
	rtt       time.Duration // of the connect
	hopped    bool
	busy      bool              // a dial, a hop, or the wait for an endpoint or a hop is under way
	making    upstream.Endpoint // of a hop under way that others wait for; zero: none
	cancelHop func()            // of the hop under way

	client aio.Conn // nil until accepted
	sniff  *sniffer
	timer  aio.Timer // of silence
	bytes  bool      // decided: opaque
	over   bool
}

// outbound takes a SYN of the app.
func (w *worker) outbound(p pending) {
	o := &outbound{w: w, p: p, began: w.loop.Now()}
	o.flow.Direction, o.flow.Client, o.flow.OrigDst = flow.Outbound, p.Client(), p.OrigDst()
	w.p.cfg.Control.Lookup(w.loop, p.OrigDst(), o.found) // bounded by itself
}

// found: the target is known; or there was no answer in time, which is not the
// same as "outside the mesh": the connection is refused.
func (o *outbound) found(t *discover.Target, err error) {
	if err != nil {
		o.fail(err)
		return
	}
	o.tg = o.w.target(t, o.flow.OrigDst)
	hint := o.tg.hint()
	o.tg.connections().Begun(knownOf(hint))
	switch {
	case hint == flow.Opaque || hint == flow.TLS:
		o.flow.Protocol, o.bytes = hint, true
		o.dial()
	case o.tg.proven():
		// Reached before, spoke HTTP, and a connection is there: another dial
		// would tell nothing new.
		o.accept()
	default:
		o.dial()
	}
}

// dial connects to an endpoint. Before the client was accepted this is what
// makes refused mean refused.
func (o *outbound) dial() {
	o.busy = false
	if o.over {
		return
	}
	ep := o.tg.pick(o.tried)
	if ep == nil && len(o.tried) == 0 && o.tg.parkConn(o.dial) != nil {
		o.busy = true
		return
	}
	if ep == nil || len(o.tried) >= maxDials {
		o.fail(errors.Join(errNoEndpoint, o.last))
		return
	}
	o.tried = append(o.tried, ep)
	ep.begin()
	o.ep, o.rtt, o.hopped = ep, 0, false
	if !o.ask() {
		o.connect()
	}
}

// askTimeout bounds the answer of a hop that was made before. The far side gives
// its app upstream.AppTimeout.
const askTimeout = upstream.AppTimeout + time.Second

// ask opens a stream on a byte hop that is there already, where one will be wanted:
// its answer is worth as much as a connect's. It reports whether that, or the wait
// for a hop that is being made, is under way.
func (o *outbound) ask() bool {
	if o.ep.plain() || !o.bytes && o.tg.spoke != flow.Opaque && o.tg.spoke != flow.TLS {
		return false
	}
	hop := o.w.hops.Take(o.ep.up)
	if hop == nil {
		o.busy = o.w.hops.Wait(o.ep.up, o.waited)
		return o.busy
	}
	o.busy = true
	began := o.w.loop.Now()
	hop.Open(askTimeout, func(c *mux.Stream, err error) {
		o.busy = false
		switch {
		case errors.Is(err, aio.ErrRefused):
			o.settle(balance.Failure)
			o.last = fmt.Errorf("stream to %s: %w", o.tried[len(o.tried)-1].up, err)
			o.dial()
		case err != nil && o.over:
			o.settle(balance.Canceled)
		case err != nil: // the hop was gone, which says nothing of the endpoint
			o.connect()
		case o.over:
			c.Reset()
			o.settle(balance.Canceled)
		default:
			o.rtt = o.w.loop.Now() - began
			o.w.p.hopsReused.Add(1)
			o.up, o.hopped = c, true
			o.dialed()
		}
	})
	return true
}

// waited: the hop that another connection was making is there, or will not be.
func (o *outbound) waited() {
	o.busy = false
	switch {
	case o.over:
		o.settle(balance.Canceled)
	case o.w.hops.Take(o.ep.up) == nil || !o.ask():
		o.connect()
	}
}

// makes lets others wait for the hop that begins here, if it is certain to be one.
func (o *outbound) makes() {
	if o.bytes && !o.ep.plain() && o.making == (upstream.Endpoint{}) {
		o.making = o.ep.up
		o.w.hops.Making(o.making)
	}
}

// made ends their wait.
func (o *outbound) made() {
	if e := o.making; e != (upstream.Endpoint{}) {
		o.making = upstream.Endpoint{}
		o.w.hops.Made(e)
	}
}

// connect begins a new connection to the endpoint.
func (o *outbound) connect() {
	o.busy = true
	o.makes()
	began := o.w.loop.Now()
	o.w.dialer.TCP(o.ep.up, func(c aio.Conn, err error) {
		o.busy = false
		switch {
		case err != nil:
			o.made()
			o.settle(balance.Failure)
			o.last = err
			o.dial()
		case o.over:
			o.made()
			c.Close()
			o.settle(balance.Canceled)
		default:
			o.rtt = o.w.loop.Now() - began
			o.up = c
			o.dialed()
		}
	})
}

// dialed: the far sidecar, or the server, has answered.
func (o *outbound) dialed() {
	if o.delay == 0 {
		o.delay = o.w.loop.Now() - o.began
	}
	switch {
	case o.bytes || o.client != nil:
		o.hop()
	default:
		o.accept()
	}
}

// accept answers the client's SYN and listens to what it says.
func (o *outbound) accept() {
	c, err := o.p.Accept()
	if err != nil { // the client is gone
		o.last = err
		o.drop()
		return
	}
	o.client, o.heard = c, o.w.loop.Now()
	if o.bytes {
		o.forward()
		return
	}
	o.sniff = &sniffer{loop: o.w.loop, scratch: o.w.scratch, client: c, done: o.detected, lost: o.lost}
	if o.up != nil && (o.hopped || o.ep.plain()) {
		o.hopped = true // nothing stands between the server and us
		o.sniff.server = o.up
	} else if o.tg.hint() == flow.Detect {
		o.timer = o.w.loop.AfterFunc(silence, o.silent)
	}
	o.sniff.start()
}

// silent: the client may be waiting for the server to speak.
func (o *outbound) silent() {
	switch {
	case o.over || o.busy || o.hopped || o.sniff.decided:
	case o.up == nil && o.tg.resting():
		// There is nobody to speak first; requests will be answered all the same.
		o.timer = o.w.loop.AfterFunc(restLook, o.silent)
	case o.up == nil:
		o.dial()
	default:
		o.hop()
	}
}

// lost: the server that a silent client was led to has ended without a word. Where
// the Service speaks HTTP this is nothing to the client, which will be served
// when it asks, by whoever is there then. Else it is what the server had to say.
func (o *outbound) lost() bool {
	if !o.tg.spoke.IsHTTP() {
		return false
	}
	o.up.SetHandler(nil)
	o.up.Close()
	o.up, o.hopped = nil, false
	o.settle(balance.Canceled)
	return true
}

// detected: the first speaker decided. Requests go on without the connection
// that was dialled, unless it can serve the first of them; bytes need it.
func (o *outbound) detected(r detect.Result) {
	if o.timer != nil {
		o.timer.Stop()
	}
	o.flow.Protocol, o.flow.SNI = protocolOf(r.Kind), r.SNI
	o.tg.conns.detect.Result(detectedOf(r.Kind, o.sniff.mute), o.w.loop.Now()-o.heard)
	if !o.sniff.mute && (o.flow.Protocol.IsHTTP() || !o.tg.resting()) {
		o.tg.spoke = o.flow.Protocol // of words to nobody, only HTTP is believed
	}
	switch {
	case o.flow.Protocol.IsHTTP():
		o.serve()
	case r.Kind == detect.Opaque && !o.sniff.mute && o.up == nil && !o.busy && o.tg.resting() && o.tg.spoke.IsHTTP():
		// Nobody takes bytes, and it is requests that are known to come here: who
		// sends something else is told so as an HTTP server does.
		o.flow.Protocol = o.tg.spoke
		o.serve()
	case o.up == nil && !o.busy:
		o.bytes = true
		o.dial()
	default:
		o.bytes = true
		o.hop()
	}
}

// hop secures the dialled connection for bytes.
func (o *outbound) hop() {
	switch {
	case o.busy:
	case o.hopped:
		o.hopDone()
	default:
		o.busy = true
		o.makes()
		o.cancelHop = o.w.dialer.Hop(o.up, o.ep.up, hop.ALPNBytes, o.hoppedTo)
	}
}

// hoppedTo is the end of a handshake. A failed one never falls back: another
// endpoint, or none.
func (o *outbound) hoppedTo(c aio.Conn, err error) {
	o.busy, o.cancelHop, o.up = false, nil, nil
	if err != nil || o.over {
		o.made()
	}
	switch {
	case err != nil:
		if o.over {
			o.settle(balance.Canceled)
			return
		}
		o.settle(balance.Failure)
		o.last = err
		o.dial()
	case o.over:
		c.Close()
		o.settle(balance.Canceled)
	default:
		if !o.ep.plain() {
			o.w.p.hopsMade.Add(1)
			c = o.w.hops.Adopt(o.ep.up, c)
			o.made()
		}
		o.up, o.hopped = c, true
		o.hopDone()
	}
}

func (o *outbound) hopDone() {
	switch {
	case o.bytes && o.client == nil:
		o.accept()
	case o.bytes:
		o.forward()
	default:
		o.sniff.listen(o.up)
	}
}

// forward joins the two connections.
func (o *outbound) forward() {
	o.over = true
	ep := o.ep
	src, dst := o.tg.clientLabels(), ep.labels(o.flow.Protocol, o.flow.SNI)
	rtt := o.rtt
	o.tg.measureConns()
	o.tg.queue.bytes.Waited(o.delay)
	to := o.tg.connections()
	to.Opened()
	o.w.join(o.client, o.up, o.flow.Protocol, &src, &dst, func(err error) {
		to.Closed(errno(err))
		ep.end(balance.Success, rtt)
	})
}

// serve turns the client's connection into requests.
func (o *outbound) serve() {
	o.over = true
	if o.cancelHop != nil {
		o.cancelHop() // hoppedTo settles
	} else if o.up != nil && !o.busy {
		o.offer()
	}
	o.w.serveOutbound(o.client, o.flow, o.tg)
}

// offer lets the pool have a connection on which nothing was said.
func (o *outbound) offer() {
	if o.sniff.shown > 0 { // it has a part of the request line
		o.up.Reset()
		o.settle(balance.Canceled)
		return
	}
	kind := upstream.HTTP2
	if o.ep.plain() && o.flow.Protocol == flow.HTTP1 {
		kind = upstream.HTTP1
	}
	if o.ep.plain() || !o.hopped {
		o.ep.group(kind).Adopt(o.up)
	} else {
		o.up.Close()
	}
	o.settle(balance.Success)
}

// settle closes the endpoint's account for this connection.
func (o *outbound) settle(out balance.Outcome) {
	if o.ep != nil {
		o.ep.end(out, o.rtt)
		o.ep = nil
	}
}

// drop lets go of everything, the client being gone.
func (o *outbound) drop() {
	o.over = true
	if o.up != nil {
		o.up.Close()
		o.settle(balance.Canceled)
	}
}

// fail tells the client: refused if it was not accepted yet, else reset.
func (o *outbound) fail(err error) {
	if o.over || o.unasked() {
		return
	}
	o.over = true
	if o.timer != nil {
		o.timer.Stop()
	}
	o.w.p.refused(&o.flow.Flow, err)
	if o.client == nil {
		o.p.Refuse()
		return
	}
	o.sniff.stop()
	o.client.Reset()
}

// unasked: there is no server for a silent client to hear, and as its Service
// speaks HTTP it is not waiting for one.
func (o *outbound) unasked() bool {
	return o.client != nil && !o.bytes && !o.sniff.decided && o.tg.spoke.IsHTTP()
}

// knownOf is a hint as metrics name it.
func knownOf(p flow.Protocol) telemetry.Known {
	switch p {
	case flow.HTTP1:
		return telemetry.KnownHTTP1
	case flow.HTTP2:
		return telemetry.KnownHTTP2
	case flow.Opaque:
		return telemetry.KnownOpaque
	case flow.TLS:
		return telemetry.KnownTLS
	}
	return telemetry.KnownNothing
}

// detectedOf is an answer of detection as metrics name it; mute: somebody ended
// before anybody said a word.
func detectedOf(k detect.Kind, mute bool) telemetry.Detected {
	switch {
	case mute:
		return telemetry.Broken
	case k == detect.HTTP1:
		return telemetry.HTTP1
	case k == detect.HTTP2:
		return telemetry.HTTP2
	case k == detect.NeedMore:
		return telemetry.Undecided
	}
	return telemetry.NotHTTP
}

func protocolOf(k detect.Kind) flow.Protocol {
	switch k {
	case detect.HTTP1:
		return flow.HTTP1
	case detect.HTTP2:
		return flow.HTTP2
	case detect.TLS:
		return flow.TLS
	}
	return flow.Opaque
}
