package tap

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/rpc"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

// Attach serves the control plane's commands on one connection until ctx or the
// stream ends. It is a function for discover's Config.Attach. One Attach runs
// at a time.
func (h *Hub) Attach(ctx context.Context, c *rpc.Conn) error {
	a := &attached{hub: h, over: make(chan struct{}), asks: make(chan wire.Ask, maxAsks)}
	s, err := c.Start(wire.MethodAttachTap, 0, a)
	if err != nil {
		return err
	}
	defer s.Cancel()
	defer h.reset()
	hello := wire.FromProxy{Hello: &wire.Hello{Pod: h.cfg.Pod}}
	if err := s.Send(ctx, hello.Append(nil), false); err != nil {
		return err
	}
	// Events wait a little for each other, losses longer.
	gather, tell := time.NewTimer(gatherPeriod), time.NewTimer(lostPeriod)
	defer gather.Stop()
	defer tell.Stop()
	var ready, due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-a.over:
			return a.err
		case <-h.wake:
			if ready == nil {
				gather.Reset(gatherPeriod)
				ready = gather.C
			}
			continue
		case <-h.full:
		case <-ready:
			ready = nil
		case <-due:
			due = nil
			if err := h.tell(ctx, s); err != nil {
				return err
			}
		case q := <-a.asks:
			if err := h.answer(ctx, s, q); err != nil {
				return err
			}
		}
		if err := h.send(ctx, s); err != nil {
			return err
		}
		if due == nil && h.lost() {
			tell.Reset(lostPeriod)
			due = tell.C
		}
	}
}

const (
	// gatherPeriod is how long events are collected: each sent by itself would wake
	// four goroutines and the loop.
	gatherPeriod = 20 * time.Millisecond
	// lostPeriod is how long losses are added up before somebody is told: a tap of
	// which most requests are beyond its rate loses thousands a second.
	lostPeriod = 250 * time.Millisecond
	// maxAsks bounds the questions that wait; what comes then is not answered, and
	// whoever asked does not wait for ever.
	maxAsks = 8
	// perPart is how many connections one part of an answer has: it stays below
	// what streams take at once.
	perPart = 100
)

// answer says which connections there are, in parts.
func (h *Hub) answer(ctx context.Context, s *rpc.Stream, q wire.Ask) error {
	var all []wire.Connection
	total := 0
	if h.cfg.Connections != nil {
		all, total = h.cfg.Connections(ctx, int(q.Limit))
	}
	for {
		n := min(len(all), perPart)
		m := wire.FromProxy{Connections: &wire.Connections{ID: q.ID, Connections: all[:n], Total: uint64(total), More: n < len(all)}}
		if err := s.Send(ctx, m.Append(nil), false); err != nil {
			return err
		}
		if all = all[n:]; len(all) == 0 {
			return nil
		}
	}
}

// send empties all queues into the stream; it waits when the stream is slow,
// and the queues then fill up and lose, while traffic goes on.
func (h *Hub) send(ctx context.Context, s *rpc.Stream) error {
	if err := h.sendPackets(ctx, s); err != nil {
		return err
	}
	p := h.taps.Load()
	if p == nil {
		return nil
	}
	var buf []byte
	for _, t := range *p {
		err := t.queue.each(func(e *wire.Event) error {
			buf = (&wire.FromProxy{Event: e}).Append(buf[:0])
			return s.Send(ctx, buf, false)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// lost reports whether there is something to tell.
func (h *Hub) lost() bool {
	p := h.taps.Load()
	return p != nil && slices.ContainsFunc(*p, func(t *tap) bool {
		t.queue.mu.Lock()
		defer t.queue.mu.Unlock()
		return t.queue.lost > 0
	})
}

// tell says how much was lost.
func (h *Hub) tell(ctx context.Context, s *rpc.Stream) error {
	p := h.taps.Load()
	if p == nil {
		return nil
	}
	for _, t := range *p {
		if n := t.queue.missing(); n > 0 {
			m := wire.FromProxy{Lost: &wire.Lost{Tap: t.id, Events: n}}
			if err := s.Send(ctx, m.Append(nil), false); err != nil {
				return err
			}
		}
	}
	return nil
}

// sendPackets empties what captures wait with, in turn, so that none keeps others
// waiting, nor requests for longer than a message of each.
func (h *Hub) sendPackets(ctx context.Context, s *rpc.Stream) error {
	p := h.captures.Load()
	if p == nil {
		return nil
	}
	var buf []byte
	for _, c := range *p {
		m, ok := c.take()
		if !ok {
			continue
		}
		buf = (&wire.FromProxy{Packets: &m}).Append(buf[:0])
		if err := s.Send(ctx, buf, false); err != nil {
			return err
		}
		signal(h.full) // there may be more
	}
	return nil
}

// attached hears the stream.
type attached struct {
	hub  *Hub
	once sync.Once
	over chan struct{}
	asks chan wire.Ask
	err  error
}

// Message implements rpc.Handler: a command.
func (a *attached) Message(_ *rpc.Stream, p []byte) {
	var c wire.Command
	err := c.Decode(p)
	switch {
	case err != nil:
	case c.Ask == nil:
		err = a.hub.set(&c)
	default:
		select {
		case a.asks <- *c.Ask:
		default:
			err = errors.New("too many questions at once")
		}
	}
	if err != nil {
		a.hub.cfg.Logger.Warn("tap command refused", "err", err)
	}
}

// End implements rpc.Handler.
func (a *attached) End(_ *rpc.Stream, err error) {
	a.once.Do(func() { a.err = err; close(a.over) })
}
