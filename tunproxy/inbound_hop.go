package tunproxy

import (
	"errors"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/mux"
	"github.com/tunmesh/tunmesh/tunproxy/upstream"
)

// inboundHopIdle is how long a client may keep a byte hop without using it:
// longer than our own clients do, so that asking meets a hop that is there.
const inboundHopIdle = 15 * time.Second

// errTooMany: a client asked for more streams than are free.
var errTooMany = errors.New("too many byte streams of one client")

// inboundHop is a byte hop to the pod. Each stream after the first is a new
// connection for everybody but TCP: it is admitted, dialled and judged as one.
type inboundHop struct {
	w     *worker
	flow  flow.Secured
	c     *mtls.Conn
	hop   *mux.Hop
	since time.Duration // idle since
}

// serveHop makes a byte hop of the client's connection and returns its first
// stream.
func (w *worker) serveHop(c *mtls.Conn, f *flow.Secured) aio.Conn {
	in := &inboundHop{w: w, flow: *f, c: c}
	in.hop = mux.Server(c, w.shared, in)
	w.inHops[in] = struct{}{}
	return in.hop.First()
}

// Idle implements mux.Owner.
func (in *inboundHop) Idle(h *mux.Hop) {
	if in.w.p.draining.Load() {
		h.Close()
	}
	in.since = in.w.loop.Now()
}

// Gone implements mux.Owner.
func (in *inboundHop) Gone(_ *mux.Hop, err error) {
	delete(in.w.inHops, in)
	if errors.Is(err, mux.ErrFlood) {
		in.w.p.cfg.Logger.Warn("byte hop of a client was broken", "client", in.flow.Client, "identity", in.flow.Peer.ID, "error", err)
	}
}

// Asked implements mux.Owner: as a SYN is asked about.
func (in *inboundHop) Asked(s *mux.Stream) {
	p := in.w.p
	switch {
	case !in.c.Current():
		// Who the client is was proved to anchors, or by a certificate of ours,
		// that are no longer in force: it connects anew.
		s.Elsewhere()
	case p.draining.Load():
		in.refuse(s, errDraining)
	case !p.policy().Authz().Admit(in.flow.OrigDst.Port(), in.flow.Client.Addr()).Allow:
		in.refuse(s, errDenied)
	case in.w.crowded(in.hop.Len()):
		in.refuse(s, errTooMany)
	default:
		in.w.dialer.TCP(appAs(&in.flow.Flow), func(app aio.Conn, err error) {
			if err != nil {
				in.refuse(s, err)
				return
			}
			in.join(s, app)
		})
	}
}

// crowded reports whether a client with so many streams may have no other: as
// with connections, nobody may have more than are free.
func (w *worker) crowded(own int) bool {
	return own > w.p.cfg.Limits.connections()/len(w.p.workers)-w.shared.Served()
}

// join answers the client and forwards, if policy lets this client.
func (in *inboundHop) join(s *mux.Stream, app aio.Conn) {
	if !s.Accept() { // the client is gone
		app.Close()
		return
	}
	in.w.forwardInbound(s, app, &in.flow)
}

func (in *inboundHop) refuse(s *mux.Stream, err error) {
	in.w.p.refused(&in.flow.Flow, err)
	s.Refuse()
}

// expired ends the hop if nobody used it for long.
func (in *inboundHop) expired(now time.Duration) {
	if in.hop.Len() == 0 && now-in.since > inboundHopIdle {
		in.hop.Close()
	}
}

// appAs is the app, seen from the client of f.
func appAs(f *flow.Flow) upstream.Endpoint {
	return upstream.Endpoint{Side: aio.App, Addr: f.OrigDst, Src: f.Client.Addr()}
}

var _ mux.Owner = (*inboundHop)(nil)
