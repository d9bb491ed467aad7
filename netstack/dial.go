package netstack

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/tunmesh/tunmesh/internal/aio"
)

// dial is an outgoing connection whose handshake is under way.
type dial struct {
	l     *loop
	c     *conn // nil when there is nothing to take back
	done  func(aio.Conn, error)
	limit *timer
}

// finish answers, once. It is called from the loop's pass only.
func (d *dial) finish(c aio.Conn, err error) {
	done := d.done
	if done == nil {
		return
	}
	d.done = nil
	if d.limit != nil {
		d.limit.Stop()
	}
	done(c, err)
}

// abort gives up. The answer comes in this pass or the next.
func (d *dial) abort(err error) {
	if d.done == nil || d.c == nil || d.c.dial != d {
		return
	}
	d.c.err = err
	d.c.ep.Abort()
	d.c.enqueue()
}

// Dial implements aio.Loop.
func (l *loop) Dial(r aio.DialRequest) (cancel func()) {
	d := &dial{l: l, done: r.Done}
	if err := l.connect(d, r); err != nil {
		l.soon(func() { d.finish(nil, err) })
		return func() {}
	}
	l.counters[r.Side].dialled.Add(1)
	d.limit = l.clock.after(r.Timeout, func() { d.abort(aio.ErrTimeout) })
	return func() { d.abort(aio.ErrClosed) }
}

func (l *loop) connect(d *dial, r aio.DialRequest) error {
	src, dst := r.Src.Addr().Unmap(), r.Dst.Addr().Unmap()
	switch {
	case l.ending:
		return aio.ErrClosed
	case r.Timeout <= 0:
		return fmt.Errorf("dial %v: no timeout was given", r.Dst)
	case !src.IsValid() || !dst.IsValid() || src.Is4() != dst.Is4() || r.Dst.Port() == 0:
		return fmt.Errorf("dial %v from %v: not a pair of addresses", r.Dst, r.Src)
	case l.s.rules.Pod(dst) != (r.Side == aio.App):
		return fmt.Errorf("dial %v: not on the %v side: %w", r.Dst, r.Side, aio.ErrUnreachable)
	case l.s.rules.Pod(src) == (r.Side == aio.App):
		return fmt.Errorf("dial %v: %v cannot be the source on the %v side: %w", r.Dst, src, r.Side, aio.ErrUnreachable)
	}
	proto := header.IPv6ProtocolNumber
	if dst.Is4() {
		proto = header.IPv4ProtocolNumber
	}
	c := l.newConn(r.Side, r.Dst, r.Src)
	e, err := l.core.stack.NewEndpoint(tcp.ProtocolNumber, proto, &c.wq)
	if err != nil {
		return fmt.Errorf("dial %v: %w", r.Dst, mapError(err))
	}
	ep := e.(*tcp.Endpoint)
	// The same source may speak to several ports of the pod from one port.
	ep.SocketOptions().SetReuseAddress(true)
	ep.SetOwner(&c.flow)
	nic := nicOf(r.Side)
	if err := ep.Bind(tcpip.FullAddress{NIC: nic, Addr: address(src), Port: r.Src.Port()}); err != nil {
		ep.Close()
		return fmt.Errorf("dial %v from %v: %w", r.Dst, r.Src, mapError(err))
	}
	err = ep.Connect(tcpip.FullAddress{NIC: nic, Addr: address(dst), Port: r.Dst.Port()})
	if _, started := err.(*tcpip.ErrConnectStarted); !started {
		ep.Close()
		if err == nil {
			err = &tcpip.ErrConnectionAborted{}
		}
		return fmt.Errorf("dial %v from %v: %w", r.Dst, r.Src, mapError(err))
	}
	id := ep.TransportEndpointInfo.ID
	c.local, c.remote = addrPort(id.LocalAddress, id.LocalPort), addrPort(id.RemoteAddress, id.RemotePort)
	c.dial, d.c = d, c
	c.begin(ep)
	return nil
}
