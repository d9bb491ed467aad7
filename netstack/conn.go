package netstack

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/link"
	"github.com/tunmesh/tunmesh/netstack/packet"
)

// conn is a TCP connection, accepted or dialled: a gVisor endpoint and what is
// known about it. It has no goroutine.
//
//	shaking ──ACK──▶ open ──user's Close──▶ open, closed ──FINs──▶ gone
//	   └───────────────┴──RST, timeout, Reset─────────────────────▶ gone
//
// gVisor calls NotifyEvent with the endpoint's lock held, so that only marks
// the connection; deliver, from the loop's ready list, does the rest.
type conn struct {
	flow link.Flow // owner of the endpoint's packets
	l    *loop
	side aio.Side
	key  flowKey
	id   stack.TransportEndpointID

	ep    *tcp.Endpoint
	wq    waiter.Queue
	entry waiter.Entry

	local, remote netip.AddrPort
	h             aio.Handler
	dial          *dial // until the handshake is over
	err           error // why it broke; kept
	in, out       uint64
	before, after *conn         // in a door's list, while it shakes hands
	began         time.Duration // when it was accepted or dialled
	copied        int           // read since the receive buffer was looked at
	crowded       uint32        // segments dropped for the lack of memory
	crowd         int           // segments taken without a look at their memory
	owedAt        time.Duration // since when an ACK is owed
	sent          int           // bytes in the send buffer, as accounted
	received      int           // and in the receive buffer, with what they cost
	stopped       bool          // Write took less than there was room for
	bulkIn        bool          // the receive buffer is as large as they get
	bulkOut       bool          // and the send buffer

	shaking bool // the handshake is under way
	placed  bool // a client opened it: it has one of the side's places
	gone    bool // the endpoint is over and out of the table
	closed  bool // the user closed or reset it
	told    bool // Closed was delivered
	finned  bool // CloseWrite was called

	owing    bool // in loop.owed
	queued   bool // in loop.ready or loop.young
	readable bool // news for Readable
	dry      bool // a Read took all that there was, and nothing came since
	writable bool // news for Writable
	wants    bool // a Write was short: Writable is owed
	finLater bool // CloseWrite or Close came during the handshake
	endLater bool
}

var (
	_ aio.Conn             = (*conn)(nil)
	_ aio.Copier           = (*conn)(nil)
	_ waiter.EventListener = (*conn)(nil)
)

func (l *loop) newConn(side aio.Side, remote, local netip.AddrPort) *conn {
	c := &conn{l: l, side: side, remote: remote, local: local, shaking: true, began: l.clock.now}
	c.entry.Init(c, waiter.ReadableEvents|waiter.WritableEvents|waiter.EventHUp|waiter.EventErr)
	c.wq.EventRegister(&c.entry)
	return c
}

// begin puts the connection into the table.
func (c *conn) begin(ep *tcp.Endpoint) {
	c.ep = ep
	c.key, c.id = keyOf(c.remote, c.local), endpointID(c.remote, c.local)
	c.l.flows[c.side][c.key] = c
	c.l.s.flows.add(c.side, c.key, c.l)
}

// forget takes the connection out of the table.
func (c *conn) forget() {
	if c.placed {
		c.placed = false
		c.l.doorOf(c.side, c.local).places.give(c.remote.Addr())
	}
	if c.l.flows[c.side][c.key] == c {
		delete(c.l.flows[c.side], c.key)
		c.l.s.flows.remove(c.side, c.key, c.l)
	}
}

// NotifyEvent implements waiter.EventListener.
func (c *conn) NotifyEvent(m waiter.EventMask) {
	if m&(waiter.ReadableEvents|waiter.EventHUp|waiter.EventErr) != 0 {
		c.readable, c.dry = true, false
	}
	if m&waiter.WritableEvents != 0 {
		c.writable = true
	}
	c.enqueue()
}

func (c *conn) enqueue() {
	if !c.queued {
		c.queued = true
		if c.isYoung() {
			c.l.young.conns.push(c)
		} else {
			c.l.ready = append(c.l.ready, c)
		}
	}
}

// over reports whether the endpoint has nothing more to do.
func (c *conn) over() bool {
	s := c.ep.EndpointState()
	return s == tcp.StateClose || s == tcp.StateError
}

// deliver tells the handler what happened since the last time.
func (c *conn) deliver() {
	c.queued = false
	if c.ep == nil {
		return // the dial failed before there was anything
	}
	if c.shaking && !c.handshake() {
		return
	}
	if c.over() {
		c.settle()
	}
	if c.h == nil || c.closed {
		return // the marks stay for SetHandler
	}
	if c.readable {
		c.readable = false
		c.h.Readable(c)
	}
	if c.writable {
		c.writable = false
		if c.wants && c.h != nil && !c.closed {
			c.wants = false
			c.h.Writable(c)
		}
	}
	c.tell()
}

// handshake looks whether the handshake is over, and reports whether it went
// well.
func (c *conn) handshake() bool {
	switch c.ep.EndpointState() {
	case tcp.StateConnecting, tcp.StateSynSent, tcp.StateSynRecv:
		return false
	}
	c.shaking = false
	d := c.dial
	c.dial = nil
	if d == nil {
		door := c.l.doorOf(c.side, c.local)
		door.opening.give(c.remote.Addr())
		door.remove(c)
	}
	if c.over() {
		c.settle()
		if d != nil {
			c.closed = true
			d.finish(nil, c.err)
			return false
		}
		if c.err == aio.ErrRefused {
			c.err = aio.ErrReset // the client took its SYN back
		}
		return true // the handler hears Closed
	}
	if d == nil {
		c.l.surges[c.side].opened++
	}
	c.keepalive()
	if c.finLater {
		_ = c.ep.Shutdown(tcpip.ShutdownWrite) // fails only if it just broke: the next event says so
	}
	if c.endLater {
		c.ep.Close()
		c.account()
	}
	if d != nil {
		d.finish(c, nil)
	}
	return true
}

func (c *conn) keepalive() {
	idle, interval := tcpip.KeepaliveIdleOption(keepaliveIdle), tcpip.KeepaliveIntervalOption(keepaliveInterval)
	_ = c.ep.SetSockOpt(&idle) // these cannot fail
	_ = c.ep.SetSockOpt(&interval)
	_ = c.ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepaliveCount)
	c.ep.SocketOptions().SetKeepAlive(true)
}

// settle draws the conclusions of an endpoint that is over, once.
func (c *conn) settle() {
	if c.gone {
		return
	}
	c.gone, c.readable, c.dry = true, true, false
	c.forget()
	purgePending(c.ep)
	if c.account(); c.received > 0 {
		c.l.unread[c] = struct{}{}
	}
	c.wq.EventUnregister(&c.entry)
	err := c.ep.LastError()
	if c.ep.EndpointState() == tcp.StateError {
		if err == nil {
			err = &tcpip.ErrConnectionReset{}
		}
		c.fail(err)
	} else if _, aborted := err.(*tcpip.ErrAborted); aborted {
		c.fail(err) // a RST in CLOSE_WAIT closes without saying so
	}
}

// fail remembers why the connection broke.
func (c *conn) fail(err tcpip.Error) {
	if c.err == nil {
		c.err = mapError(err)
	}
}

// tell delivers Closed when everything is over, and read.
func (c *conn) tell() {
	if c.told || c.closed || c.h == nil || c.err == nil && !(c.finned && c.peerDone()) || c.unread() > 0 {
		return
	}
	c.told = true
	h := c.h
	c.h = nil
	c.ep.Close() // what was written is still delivered
	c.account()
	h.Closed(c, c.err)
}

// peerDone reports whether the peer's FIN has arrived.
func (c *conn) peerDone() bool {
	switch c.ep.EndpointState() {
	case tcp.StateCloseWait, tcp.StateLastAck, tcp.StateClosing, tcp.StateTimeWait, tcp.StateClose:
		return true
	}
	return false
}

func (c *conn) unread() int {
	n, err := c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
	if err != nil {
		return 0
	}
	return n
}

// icmp takes an ICMP error about this connection's segments. Only the path's
// MTU concerns one that is open: everything else may be transient, or forged.
func (c *conn) icmp(e packet.ICMPError) {
	switch {
	case e.Kind == packet.ICMPTooBig:
		ip := 20
		if c.remote.Addr().Is6() {
			ip = 40
		}
		c.ep.HandleError(tooBig{uint32(e.MTU - ip)}, nil)
	case c.dial != nil && e.Kind == packet.ICMPRefused:
		c.dial.abort(aio.ErrRefused)
	case c.dial != nil && e.Kind == packet.ICMPUnreachable:
		c.dial.abort(aio.ErrUnreachable)
	}
}

// Loop implements aio.Conn.
func (c *conn) Loop() aio.Loop { return c.l }

// Local implements aio.Conn.
func (c *conn) Local() netip.AddrPort { return c.local }

// Remote implements aio.Conn.
func (c *conn) Remote() netip.AddrPort { return c.remote }

// SetHandler implements aio.Conn.
func (c *conn) SetHandler(h aio.Handler) {
	c.h = h
	if h == nil || c.closed {
		return
	}
	if c.told { // another handler was: this one finds the end with its first Read
		c.readable = true
	} else if !c.shaking && c.ep.Readiness(waiter.ReadableEvents)&waiter.ReadableEvents != 0 {
		c.readable = true
	}
	if c.readable || c.writable || c.gone {
		c.enqueue()
	}
}

// Stats implements aio.Conn.
func (c *conn) Stats() aio.Stats {
	s := aio.Stats{BytesIn: c.in, BytesOut: c.out, OutOfOrder: uint64(c.flow.Disordered), DroppedMemory: uint64(c.crowded)}
	var info tcpip.TCPInfoOption
	if err := c.ep.GetSockOpt(&info); err == nil {
		s.RTT = info.RTT
	}
	if stats, ok := c.ep.Stats().(*tcp.Stats); ok {
		s.Retransmits = stats.SendErrors.Retransmits.Value()
		s.Timeouts = stats.SendErrors.Timeouts.Value()
		s.ZeroWindows = stats.ReceiveErrors.ZeroRcvWindowState.Value()
		s.DroppedQueue = stats.ReceiveErrors.SegmentQueueDropped.Value()
	}
	return s
}

// CloseWrite implements aio.Conn.
func (c *conn) CloseWrite() error {
	switch {
	case c.closed:
		return aio.ErrClosed
	case c.err != nil:
		return c.err
	case c.finned:
		return nil
	}
	c.finned = true
	if c.shaking {
		c.finLater = true
		return nil
	}
	if err := c.ep.Shutdown(tcpip.ShutdownWrite); err != nil {
		return c.broken(err)
	}
	c.enqueue() // perhaps both directions are over now
	return nil
}

// Close implements aio.Conn.
func (c *conn) Close() {
	if c.closed {
		return
	}
	c.closed, c.h = true, nil
	if c.shaking {
		c.endLater = true
		return
	}
	c.ep.Close()
	c.account()
}

// Reset implements aio.Conn.
func (c *conn) Reset() {
	if c.closed {
		return
	}
	c.closed, c.h = true, nil
	c.ep.Abort()
	c.account()
	c.enqueue()
}

// abort is Reset by the stack, which the handler hears of.
func (c *conn) abort() {
	if c.err == nil {
		c.err = aio.ErrReset
	}
	if c.dial != nil {
		c.err = aio.ErrClosed
	}
	c.ep.Abort()
	c.account()
	c.enqueue()
}

// broken remembers and returns the error of a call that found the connection
// broken.
func (c *conn) broken(err tcpip.Error) error {
	switch err.(type) {
	case *tcpip.ErrClosedForSend, *tcpip.ErrClosedForReceive, *tcpip.ErrNotConnected:
		if c.err == nil {
			if c.over() {
				c.settle()
			}
			if c.err == nil {
				return aio.ErrClosed
			}
		}
	default:
		c.fail(err)
	}
	c.enqueue()
	return c.err
}

// mapError turns gVisor's error into aio's.
func mapError(err tcpip.Error) error {
	switch err.(type) {
	case *tcpip.ErrConnectionReset, *tcpip.ErrConnectionAborted, *tcpip.ErrAborted:
		return aio.ErrReset
	case *tcpip.ErrConnectionRefused:
		return aio.ErrRefused
	case *tcpip.ErrTimeout:
		return aio.ErrTimeout
	case *tcpip.ErrHostUnreachable, *tcpip.ErrNetworkUnreachable, *tcpip.ErrHostDown, *tcpip.ErrNoNet:
		return aio.ErrUnreachable
	}
	return fmt.Errorf("tcp: %w", errors.New(err.String()))
}
