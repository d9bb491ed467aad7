package tunproxy

import (
	"math/rand/v2"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/exchange"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/h1"
	"github.com/tunmesh/tunmesh/tunproxy/h2"
	"github.com/tunmesh/tunmesh/tunproxy/memory"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/mux"
	"github.com/tunmesh/tunmesh/tunproxy/orig"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
	"github.com/tunmesh/tunmesh/tunproxy/upstream"
)

const (
	// sweepEvery is how often a worker looks after what nobody tells it about:
	// byte counts of long connections, targets that are unused.
	sweepEvery = 5 * time.Second
	// targetIdle is how long an unused target keeps its statistics and
	// connections; the watch behind it is discover's to end.
	targetIdle = time.Minute
)

// worker is the part of the sidecar that lives on one loop: everything here is
// touched on that loop only, so nothing has a lock.
type worker struct {
	p    *Proxy
	loop aio.Loop
	rand *rand.Rand

	dialer *upstream.Dialer
	pool   *upstream.Pool
	names  *orig.Names
	// toSidecar translates what leaves for other sidecars.
	toSidecar exchange.Translator
	targets   map[*discover.Target]*target

	h1      *h1.Buffers
	h2      *h2.Memory
	spares  *exchange.Spares
	bound   *memory.Bound // of what HTTP holds
	scratch []byte        // shared by pipes and sniffers

	unjudged map[*inbound]struct{} // who came before the first policy
	refusals refusals

	hops   *upstream.Hops           // byte hops to other pods
	inHops map[*inboundHop]struct{} // and to this one
	shared *mux.Shared              // by all of them

	servers map[server]struct{}         // HTTP connections of clients, to drain
	pipes   map[*inboundPipe]struct{}   // byte connections that policy may close
	tunnels map[*inboundTunnel]struct{} // and requests that became such
	tracked []*transport
	// detections are handles by the pod's port, under the policy in force.
	detections map[uint16]telemetry.Detection
}

func newWorker(p *Proxy, loop aio.Loop) *worker {
	w := &worker{
		p: p, loop: loop,
		rand:    rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		targets: make(map[*discover.Target]*target),
		names:   orig.NewNames(),
		h1:      h1.NewBuffers(),
		h2:      h2.NewMemory(),
		spares:  exchange.NewSpares(),
		bound:   p.cfg.Limits.bound(len(p.cfg.App)),
		scratch: make([]byte, mux.MaxData), // a packet, a read, a frame, a packet
		inHops:  make(map[*inboundHop]struct{}),
		shared:  mux.NewShared(p.cfg.Limits.streamBytes(len(p.cfg.App))),
		servers: make(map[server]struct{}),
		pipes:   make(map[*inboundPipe]struct{}),
		tunnels: make(map[*inboundTunnel]struct{}),

		unjudged: make(map[*inbound]struct{}),

		detections: make(map[uint16]telemetry.Detection),
	}
	w.h1.Bound, w.h2.Bound, w.spares.Bound = w.bound, w.bound, w.bound
	w.hops = upstream.NewHops(loop, w.shared)
	w.toSidecar = orig.ToSidecar{Names: w.names}
	w.dialer = upstream.NewDialer(loop, w.secure)
	w.pool = upstream.NewPool(w.dialer, w.speakHTTP1, w.speakHTTP2)
	return w
}

// start begins the periodic part. It runs on the loop.
func (w *worker) start() { w.loop.AfterFunc(sweepEvery, w.sweep) }

func (w *worker) sweep() {
	now := w.loop.Now()
	w.sample(0)
	for t, tg := range w.targets {
		if tg.users == 0 && now-tg.used > targetIdle {
			tg.release()
			delete(w.targets, t)
			continue
		}
		tg.rotate()
	}
	for in := range w.inHops {
		in.expired(now)
	}
	if w == w.p.workers[0] {
		w.p.udp.Sweep()
	}
	w.pool.Renew()
	w.loop.AfterFunc(sweepEvery, w.sweep)
}

// sampleBatch is how many connections are looked at in one pass of the loop;
// sampleGap is the time between batches. 10,000 connections take a second, and
// nobody waits longer than for the look at 256.
const (
	sampleBatch = 256
	sampleGap   = 20 * time.Millisecond
)

// sample counts bytes of connections from the given index on, in batches.
func (w *worker) sample(from int) {
	end := min(from+sampleBatch, len(w.tracked))
	for i := from; i < end; i++ {
		w.tracked[i].sample()
	}
	if end < len(w.tracked) {
		w.loop.AfterFunc(sampleGap, func() { w.sample(end) })
	}
}

// secure is mTLS as the client, for the dialler.
func (w *worker) secure(c aio.Conn, id spiffe.ID, alpn string, done func(aio.Conn, error)) (cancel func()) {
	return mtls.Client(c, mtls.Params{Store: w.p.cfg.Identity, ALPN: alpn, Accept: []spiffe.ID{id}}, func(c *mtls.Conn, err error) {
		if err != nil {
			done(nil, err)
			return
		}
		done(c, nil)
	})
}

// syn takes a connection that somebody asks for.
func (w *worker) syn(p pending, side aio.Side) {
	if side == aio.App {
		w.outbound(p)
		return
	}
	w.inbound(p)
}

// policyChanged lets in who waited for a policy, and closes byte connections that
// are no longer allowed.
func (w *worker) policyChanged() {
	w.forgetDetections()
	w.judge()
	for p := range w.pipes {
		p.recheck()
	}
	for t := range w.tunnels {
		t.recheck()
	}
}

// maxDetections bounds the ports whose handles a worker keeps: a pod has few.
const maxDetections = 64

// detection is the handle for connections to the port of f.
func (w *worker) detection(f *flow.Secured) telemetry.Detection {
	port := f.OrigDst.Port()
	d, ok := w.detections[port]
	if !ok {
		if len(w.detections) >= maxDetections {
			w.forgetDetections()
		}
		d = w.p.cfg.Metrics.Detections[flow.Inbound].At(w.server(f))
		w.detections[port] = d
	}
	return d
}

// server is the policy's server of the port of f.
func (w *worker) server(f *flow.Secured) telemetry.Server {
	return serverOf(w.p.judge(f), f)
}

func (w *worker) forgetDetections() {
	for port, d := range w.detections {
		d.Release()
		delete(w.detections, port)
	}
}

// drain asks every HTTP client to go elsewhere, in order, and lets go of byte
// hops that nobody uses.
func (w *worker) drain() {
	for s := range w.servers {
		s.Drain()
	}
	for in := range w.inHops {
		if in.hop.Len() == 0 {
			in.hop.Close()
		}
	}
}
