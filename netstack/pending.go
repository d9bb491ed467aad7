package netstack

import (
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/packet"
)

// Pending is a connection that a client asks for and nobody has answered: a
// value to accept, refuse or drop. It belongs to its loop, and may be kept and
// answered later there; SYNs that the client repeats meanwhile are absorbed.
// Unanswered for Config.PendingTimeout, it is dropped.
type Pending struct {
	// Side is where the client is.
	Side aio.Side
	// Src is the client's true address, Dst the one that it wants to reach.
	Src, Dst netip.AddrPort

	l     *loop
	k     flowKey
	id    stack.TransportEndpointID
	syn   *stack.PacketBuffer // nil once answered
	limit *timer
}

// Loop is where the connection will live.
func (p *Pending) Loop() aio.Loop { return p.l }

// syn begins a pending connection; OnSYN hears of it in a turn of those who are new.
// It borrows pkt.
func (l *loop) syn(side aio.Side, key packet.Key, pkt *stack.PacketBuffer) {
	k := keyOf(key.Remote, key.Local)
	if l.pending[side][k] != nil {
		return // the client repeats itself
	}
	client, door := key.Remote.Addr(), l.doorOf(side, key.Local)
	if door != &l.doors[reserved] && l.sheds(side) {
		return
	}
	got := door.opening.take(client)
	if got == sideFull && l.makeRoom(door) {
		got = door.opening.take(client)
	}
	if got != placed {
		l.drop(side, packet.PendingLimit)
		return
	}
	if got := door.places.take(client); got != placed {
		door.opening.give(client)
		why := packet.ConnLimit
		if got == clientsFull {
			why = packet.ClientLimit
		}
		l.turnAway(side, key, pkt, why)
		return
	}
	p := &Pending{Side: side, Src: key.Remote, Dst: key.Local, l: l, k: k, id: endpointID(key.Remote, key.Local), syn: pkt.IncRef()}
	p.limit = l.clock.after(l.s.cfg.PendingTimeout, p.expire)
	l.pending[side][k] = p
	l.s.flows.add(side, k, l)
	l.counters[side].syns.Add(1)
	l.surges[side].begin()
	l.young.syns[side].push(p)
}

// turnAway refuses a SYN for which there is no place. It borrows pkt.
func (l *loop) turnAway(side aio.Side, key packet.Key, pkt *stack.PacketBuffer, why packet.Reason) {
	l.drop(side, why)
	l.refuseStray(side, endpointID(key.Remote, key.Local), pkt)
}

func (p *Pending) expire() {
	p.l.counters[p.Side].expired.Add(1)
	p.Drop()
}

// answer ends the pending state. It reports whether this is the first answer;
// the caller then owns the SYN.
func (p *Pending) answer() (*stack.PacketBuffer, bool) {
	pkt := p.syn
	if pkt == nil {
		return nil, false
	}
	p.syn = nil
	p.limit.Stop()
	delete(p.l.pending[p.Side], p.k)
	p.l.s.flows.remove(p.Side, p.k, p.l)
	return pkt, true
}

// Accept answers the SYN. The connection can be given a handler at once; there
// is nothing to read and no room to write before the client's ACK, and if that
// never comes the handler hears Closed. An error means that the client was
// refused, or that p was answered before.
func (p *Pending) Accept() (aio.Conn, error) {
	pkt, ok := p.answer()
	if !ok {
		return nil, fmt.Errorf("accept %v from %v: answered before, or timed out: %w", p.Dst, p.Src, aio.ErrClosed)
	}
	defer pkt.DecRef()
	c := p.l.newConn(p.Side, p.Src, p.Dst)
	ep, err := p.l.core.tcp.accept(p.l.core.listen, p.id, pkt, &c.wq, &c.flow)
	if err != nil {
		p.leave()
		p.l.core.reset(p.id, pkt)
		return nil, fmt.Errorf("accept %v from %v: %w", p.Dst, p.Src, mapError(err))
	}
	p.l.counters[p.Side].accepted.Add(1)
	c.placed = true
	c.begin(ep)
	p.l.doorOf(p.Side, p.Dst).add(c)
	return c, nil
}

// Refuse answers with RST: the client's connect fails at once.
func (p *Pending) Refuse() {
	pkt, ok := p.answer()
	if !ok {
		return
	}
	p.leave()
	p.l.counters[p.Side].refused.Add(1)
	p.l.core.reset(p.id, pkt)
	pkt.DecRef()
}

// Drop forgets the SYN without an answer: the client tries again by itself.
func (p *Pending) Drop() {
	if pkt, ok := p.answer(); ok {
		p.leave()
		pkt.DecRef()
	}
}

// leave gives the client's places back; one that was accepted keeps them, that
// of its opening until its handshake is over.
func (p *Pending) leave() {
	door := p.l.doorOf(p.Side, p.Dst)
	door.opening.give(p.Src.Addr())
	door.places.give(p.Src.Addr())
}
