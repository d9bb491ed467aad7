package tunproxy

import (
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/lane"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/upstream"
)

// inboundLaneIdle is how long a client may keep a byte hop without using it:
// longer than our own clients do, so that asking meets a lane that is there.
const inboundLaneIdle = 15 * time.Second

// inboundLane is a byte hop to the pod. Each stream after the first is a new
// connection for everybody but TCP: it is admitted, dialled and judged as one.
type inboundLane struct {
	w     *worker
	flow  flow.Secured
	c     *mtls.Conn
	lane  *lane.Lane    // when idle
	since time.Duration // idle since
}

// serveLane makes a lane of the client's connection and returns its first
// stream.
func (w *worker) serveLane(c *mtls.Conn, f *flow.Secured) aio.Conn {
	return lane.Server(c, &inboundLane{w: w, flow: *f, c: c})
}

// Idle implements lane.Owner.
func (in *inboundLane) Idle(l *lane.Lane) {
	if in.w.p.draining.Load() {
		l.Close()
		return
	}
	in.lane, in.since = l, in.w.loop.Now()
	in.w.lanes[in] = struct{}{}
}

// Gone implements lane.Owner.
func (in *inboundLane) Gone(*lane.Lane) { delete(in.w.lanes, in) }

// Asked implements lane.Owner: as a SYN is asked about.
func (in *inboundLane) Asked(l *lane.Lane) {
	delete(in.w.lanes, in)
	p := in.w.p
	switch {
	case !in.c.Current():
		// Who the client is was proved to anchors, or by a certificate of ours,
		// that are no longer in force: it connects anew.
		in.lane = l
		l.Close()
	case p.draining.Load():
		in.refuse(l, errDraining)
	case !p.policy().Authz().Admit(in.flow.OrigDst.Port(), in.flow.Client.Addr()).Allow:
		in.refuse(l, errDenied)
	default:
		in.w.dialer.TCP(appAs(&in.flow.Flow), func(app aio.Conn, err error) {
			if err != nil {
				in.refuse(l, err)
				return
			}
			in.join(l, app)
		})
	}
}

// join answers the client and forwards, if policy lets this client.
func (in *inboundLane) join(l *lane.Lane, app aio.Conn) {
	s := l.Accept()
	if s == nil { // the client is gone
		app.Close()
		return
	}
	in.w.forwardInbound(s, app, &in.flow)
}

func (in *inboundLane) refuse(l *lane.Lane, err error) {
	in.w.p.refused(&in.flow.Flow, err)
	l.Refuse()
}

// expired ends the lane if nobody used it for long.
func (in *inboundLane) expired(now time.Duration) {
	if now-in.since > inboundLaneIdle {
		in.lane.Close()
	}
}

// appAs is the app, seen from the client of f.
func appAs(f *flow.Flow) upstream.Endpoint {
	return upstream.Endpoint{Side: aio.App, Addr: f.OrigDst, Src: f.Client.Addr()}
}

var _ lane.Owner = (*inboundLane)(nil)
