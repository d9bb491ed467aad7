package tunproxy

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/annotation"
	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/tunproxy/detect"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
	"github.com/tunmesh/tunmesh/tunproxy/upstream"
)

// clientHelloWait bounds how long a server that spoke first is held back from a
// client about which nobody can say whether it is a sidecar: one of those has
// begun TLS long before.
const clientHelloWait = time.Second

// policyWait bounds how long a client waits for this pod's first policy: as
// long as a sidecar that dials does.
const policyWait = upstream.WireTimeout

// inbound is a connection from the network on its way to the pod's app. Its
// methods lie in the order in which they happen:
//
//	dial the app ─▶ accept ─▶ sniff ─┬─ our TLS ─▶ handshake ─┬─ requests ─▶ serve
//	                                 │                        └─ bytes ────▶ forward
//	                                 ├─ plain HTTP ──────────▶ serve
//	                                 └─ bytes, or others' TLS ▶ forward
type inbound struct {
	w      *worker
	p      pending
	flow   flow.Secured
	app    aio.Conn // the first connection to the app; nil for the admin port
	client aio.Conn
	sniff  *sniffer
	timer  aio.Timer     // of what the connection waits for now
	ended  bool          // the client, without a byte
	heard  time.Duration // when it was accepted
}

// inbound takes a SYN of the network.
func (w *worker) inbound(p pending) {
	in := &inbound{w: w, p: p}
	in.flow.Direction, in.flow.Client, in.flow.OrigDst = flow.Inbound, p.Client(), p.OrigDst()
	in.flow.Peer = flow.Peer{Addr: p.Client(), Reason: flow.NoTLSFromRemote}
	switch {
	case p.OrigDst().Port() == annotation.AdminPort:
		in.accept()
	case w.p.draining.Load():
		in.refuse(errDraining)
	case w.p.policy() == nil:
		w.unjudged[in] = struct{}{}
		in.timer = w.loop.AfterFunc(policyWait, in.unanswered)
	default:
		in.admit()
	}
}

// unanswered: nobody has said who may come. A sidecar that was started again
// finds SYNs in its queues before it knows, and lets them wait; but not for ever.
func (in *inbound) unanswered() {
	delete(in.w.unjudged, in)
	in.refuse(errNoPolicy)
}

// judge goes on with those who came before the first policy.
func (w *worker) judge() {
	if w.p.policy() == nil {
		return
	}
	for in := range w.unjudged {
		in.timer.Stop()
		in.timer = nil
		in.admit()
	}
	clear(w.unjudged)
}

// admit lets nobody in whom policy denies whatever they prove.
func (in *inbound) admit() {
	if !in.w.p.policy().Authz().Admit(in.flow.OrigDst.Port(), in.flow.Client.Addr()).Allow {
		in.refuse(errDenied)
		return
	}
	in.dial()
}

// dial connects to the app as the client, before the client hears of anything.
// The connection is the first one used for what the client then says.
func (in *inbound) dial() {
	w, dst := in.w, in.flow.OrigDst
	if w.refusals.known(dst, w.loop.Now()) {
		in.refuse(aio.ErrRefused)
		return
	}
	w.dialer.TCP(appAs(&in.flow.Flow), func(c aio.Conn, err error) {
		w.refusals.answered(dst, w.loop.Now(), errors.Is(err, aio.ErrRefused))
		if err != nil {
			in.refuse(err)
			return
		}
		in.app = c
		in.accept()
	})
}

func (in *inbound) accept() {
	c, err := in.p.Accept()
	if err != nil {
		in.closeApp()
		return
	}
	in.client, in.heard = c, in.w.loop.Now()
	in.sniff = &sniffer{loop: in.w.loop, scratch: in.w.scratch, client: c, done: in.detected}
	if in.app != nil { // the admin port speaks when it is spoken to
		in.sniff.server, in.sniff.unsaid, in.sniff.mayShow = in.app, in.unsaid, in.mayShow
	}
	in.sniff.start()
}

// unsaid: the app has something to say and the client is still silent, or ended
// without a word. If that is a sidecar it is about to begin TLS, and plain bytes
// would break it; or it needs a spare connection no more, and what the app says
// would cross the network in the clear. So its address is looked up; only who is
// explicitly not of the mesh is spoken to.
func (in *inbound) unsaid(ended bool) bool {
	in.ended = in.ended || ended
	if in.timer == nil {
		in.timer = in.w.loop.AfterFunc(clientHelloWait, in.unproven)
		// The port does not matter; one and the same lets the answer be cached.
		client := netip.AddrPortFrom(in.flow.Client.Addr(), in.flow.OrigDst.Port())
		in.w.p.cfg.Control.Lookup(in.w.loop, client, func(t *discover.Target, err error) {
			if err == nil && !meshed(t.Load()) {
				in.sniff.expired()
			}
		})
	}
	return false
}

// unproven: nobody said that this silent client is outside the mesh.
func (in *inbound) unproven() {
	if in.sniff.seen > 0 {
		return // it speaks after all, if slowly
	}
	in.sniff.stop()
	if !in.ended { // a sidecar's spare connection is nobody's fault
		in.w.p.refused(&in.flow.Flow, errUnproven)
	}
	in.client.Reset()
	in.app.Reset()
}

// mayShow: the app gets no byte of who may not send it any; a request can yet
// turn out to be a probe.
func (in *inbound) mayShow() bool { return in.w.p.judge(&in.flow).Allow }

// detected: what the client is, by its first bytes. They select the handler and
// nothing else.
func (in *inbound) detected(r detect.Result) {
	if in.timer != nil {
		in.timer.Stop()
	}
	in.flow.Protocol, in.flow.SNI = protocolOf(r.Kind), r.SNI
	ours := r.Kind == detect.TLS && r.Offers(hop.IsOurs)
	if !ours {
		in.known(detectedOf(r.Kind, in.sniff.mute))
	}
	switch {
	case ours:
		mtls.Server(in.client, mtls.Params{Store: in.w.p.cfg.Identity}, in.secured)
	case in.flow.Protocol == flow.TLS:
		in.flow.Peer.Security, in.flow.Peer.SNI = flow.Passthrough, r.SNI
		in.flow.Peer.Reason = flow.NoReason
		in.forward()
	case in.flow.Protocol.IsHTTP() && !in.opaquePort():
		in.serve()
	default:
		in.flow.Protocol = flow.Opaque
		in.forward()
	}
}

// known counts what the client turned out to speak. Another sidecar says so in its
// handshake.
func (in *inbound) known(d telemetry.Detected) {
	if in.app != nil {
		in.w.detection(&in.flow).Result(d, in.w.loop.Now()-in.heard)
	}
}

func (in *inbound) opaquePort() bool {
	return in.w.p.policy().Protocol(in.flow.OrigDst.Port()) == flow.Opaque
}

// secured is the end of the handshake. A client that could not prove who it is
// gets nothing, and neither does the app.
func (in *inbound) secured(c *mtls.Conn, err error) {
	if err != nil {
		in.w.p.handshakeFailed(&in.flow.Flow, err)
		in.closeApp()
		return
	}
	in.client = c
	in.flow.Peer = flow.Peer{Addr: in.flow.Client, Security: flow.Mutual, ID: c.Peer()}
	switch c.ALPN() {
	case hop.ALPNRequests:
		in.flow.Protocol = flow.HTTP2
		in.known(telemetry.HTTP2)
		in.serve()
	case hop.ALPNUpgrade:
		in.flow.Protocol = flow.HTTP1
		in.known(telemetry.HTTP1)
		in.serve()
	default:
		in.flow.Protocol = flow.Opaque
		in.known(telemetry.NotHTTP)
		if in.app != nil { // else forward ends it, and there are no further streams
			in.client = in.w.serveHop(c, &in.flow)
		}
		in.forward()
	}
}

// forward joins the client with the app, if policy lets it.
func (in *inbound) forward() {
	if in.app == nil { // the admin port takes requests only
		in.client.Reset()
		return
	}
	if d := in.w.p.judge(&in.flow); !d.Allow && in.onlyConnected() {
		in.client.Reset()
		in.app.Reset()
		return
	}
	in.w.forwardInbound(in.client, in.app, &in.flow)
}

// forwardInbound joins a client with the app if policy lets it, and counts what
// policy said.
func (w *worker) forwardInbound(client, app aio.Conn, f *flow.Secured) {
	d := w.p.judge(f)
	w.p.judged(f, d)
	if !d.Allow {
		client.Reset()
		app.Reset()
		return
	}
	w.joinInbound(client, app, f, d)
}

// onlyConnected: a TCP probe has what it wants, every second maybe, and is
// neither a client that was denied nor worth a line in the log.
func (in *inbound) onlyConnected() bool {
	return in.sniff.seen == 0 && in.flow.Protocol == flow.Opaque && in.w.p.policy().Authz().IsConnectProbe(in.flow.OrigDst.Port())
}

// serve turns the client's connection into requests.
func (in *inbound) serve() {
	if in.app == nil {
		in.w.serveAdmin(in.client, &in.flow)
		return
	}
	first := in.app
	if in.sniff.shown > 0 { // it has a part of the request line
		first.Reset()
		first = nil
	}
	in.w.serveInbound(in.client, first, in.flow, appAs(&in.flow.Flow))
}

func (in *inbound) closeApp() {
	if in.app != nil {
		in.app.Close()
	}
}

func (in *inbound) refuse(err error) {
	in.w.p.refused(&in.flow.Flow, err)
	in.p.Refuse()
}

// meshed reports whether an address is, as far as the control plane said, a
// pod with a sidecar.
func meshed(s *discover.Snapshot) bool {
	for i := range s.Endpoints {
		if s.Endpoints[i].Meshed() {
			return true
		}
	}
	return false
}

var (
	errNoEndpoint = errors.New("no endpoint")
	errDraining   = errors.New("the sidecar is shutting down")
	errDenied     = errors.New("policy allows nobody")
	errNoPolicy   = fmt.Errorf("no policy: %w", discover.ErrNoAnswer)
	errUnproven   = errors.New("the app spoke first to a client that may be a sidecar and stays silent")
)
