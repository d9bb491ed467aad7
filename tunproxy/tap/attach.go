package tap

import (
	"context"
	"sync"

	"github.com/tunmesh/tunmesh/tunproxy/rpc"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

// Attach serves the control plane's commands on one connection until ctx or the
// stream ends. It is a function for discover's Config.Attach. One Attach runs
// at a time.
func (h *Hub) Attach(ctx context.Context, c *rpc.Conn) error {
	a := &attached{hub: h, over: make(chan struct{})}
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
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-a.over:
			return a.err
		case <-h.wake:
			if err := h.send(ctx, s); err != nil {
				return err
			}
		}
	}
}

// send empties all queues into the stream; it waits when the stream is slow,
// and the queues then fill up and lose, while traffic goes on.
func (h *Hub) send(ctx context.Context, s *rpc.Stream) error {
	p := h.taps.Load()
	if p == nil {
		return nil
	}
	var buf []byte
	for _, t := range *p {
		events, lost := t.queue.drain()
		for _, e := range events {
			m := wire.FromProxy{Event: e}
			buf = m.Append(buf[:0])
			if err := s.Send(ctx, buf, false); err != nil {
				return err
			}
		}
		if lost > 0 {
			m := wire.FromProxy{Lost: &wire.Lost{Tap: t.id, Events: lost}}
			buf = m.Append(buf[:0])
			if err := s.Send(ctx, buf, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// attached hears the stream.
type attached struct {
	hub  *Hub
	once sync.Once
	over chan struct{}
	err  error
}

// Message implements rpc.Handler: a command.
func (a *attached) Message(_ *rpc.Stream, p []byte) {
	var c wire.Command
	err := c.Decode(p)
	if err == nil {
		err = a.hub.set(&c)
	}
	if err != nil {
		a.hub.cfg.Logger.Warn("tap command refused", "err", err)
	}
}

// End implements rpc.Handler.
func (a *attached) End(_ *rpc.Stream, err error) {
	a.once.Do(func() { a.err = err; close(a.over) })
}
