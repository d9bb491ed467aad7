package tunproxy

import (
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/h1"
	"github.com/tunmesh/tunmesh/tunproxy/h2"
	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
	"github.com/tunmesh/tunmesh/tunproxy/upstream"
)

// server is an HTTP connection of a client, of either version.
type server interface {
	// Drain lets exchanges under way finish and takes no more.
	Drain()
}

// serveHTTP speaks HTTP to a client on c. hop: the client is a sidecar, whose
// silence is noticed soon; other clients may not like to be pinged. The
// connection is counted under l; nil: it is not.
func (w *worker) serveHTTP(c aio.Conn, p flow.Protocol, hop bool, l *telemetry.Labels, accept func(message.Stream), closed func()) {
	var t *transport
	if l != nil {
		t = w.track(c, l, telemetry.Src, p)
	}
	var s server
	over := func(err error) {
		delete(w.servers, s)
		w.p.serving.Add(-1)
		if t != nil {
			t.close(err)
		}
		closed()
	}
	if p == flow.HTTP2 {
		s = h2.NewServer(c, w.p.cfg.Limits.http2(h2.Config{
			Memory: w.h2, Counters: &w.p.h2, ExtendedConnect: true,
			Keepalive: keepalive(hop), OnClosed: over,
		}, hop), accept)
	} else {
		s = h1.NewServer(c, w.p.cfg.Limits.http1(h1.Config{
			Buffers: w.h1, Counters: &w.p.h1, Refused: w.refusedBy(l), OnClose: over,
		}), accept)
	}
	w.servers[s] = struct{}{}
	w.p.serving.Add(1)
	if w.p.draining.Load() {
		s.Drain()
	}
}

// refusedBy counts requests that were not understood under l's direction.
func (w *worker) refusedBy(l *telemetry.Labels) func(*h1.Error) {
	if l == nil {
		return nil
	}
	d := l.Direction
	return func(e *h1.Error) { w.p.cfg.Metrics.HTTPError(d, e.Reason) }
}

// keepalive is the default of package h2 between sidecars, and nothing else.
func keepalive(hop bool) h2.Keepalive {
	if hop {
		return h2.Keepalive{}
	}
	return h2.Keepalive{Interval: -1 * time.Second}
}

// speakHTTP1 and speakHTTP2 make the pool's clients.
func (w *worker) speakHTTP1(e upstream.Endpoint, c aio.Conn, room, _ func(), over func(error)) upstream.Client {
	t := w.trackUpstream(e, c, flow.HTTP1)
	n := &http1Client{}
	n.Client = h1.NewClient(c, h1.Config{
		Buffers: w.h1, Counters: &w.p.h1,
		Refused: func(err *h1.Error) { // the exchange counts it, as a broken connection
			w.p.cfg.Logger.Debug("response was refused", "from", e.Addr, "error", err)
		},
		OnIdle: func() {
			if n.closing {
				n.Close()
				return
			}
			room()
		},
		OnClose: func(err error) {
			t.close(err)
			over(err)
		},
	})
	return n
}

func (w *worker) speakHTTP2(e upstream.Endpoint, c aio.Conn, room, gone func(), over func(error)) upstream.Client {
	t := w.trackUpstream(e, c, flow.HTTP2)
	list := 0
	if !e.ID.IsZero() {
		list = hopHeaderList
	}
	return http2Client{h2.NewClient(c, h2.Config{
		Memory: w.h2, Counters: &w.p.h2, MaxHeaderList: list,
		Keepalive:  keepalive(!e.ID.IsZero()),
		OnCapacity: room,
		OnDrain:    gone,
		OnClosed: func(err error) {
			t.close(err)
			over(err)
		},
	})}
}

// http1Client and http2Client are the engines' clients as the pool sees them.
type (
	http1Client struct {
		*h1.Client
		closing bool
	}
	http2Client struct{ *h2.Client }
)

// Closing implements upstream.Client.
func (c *http1Client) Closing() {
	c.closing = true
	if c.Idle() {
		c.Close()
	}
}

// OpenStream implements upstream.Client.
func (c *http1Client) OpenStream() (message.Stream, error) {
	if c.closing {
		return nil, h1.ErrGone
	}
	return c.Client.OpenStream()
}

// Closing implements upstream.Client.
func (c http2Client) Closing() { c.Drain() }
