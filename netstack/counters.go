package netstack

import (
	"sync/atomic"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/packet"
)

// sideCounters are a loop's figures of one side. One goroutine adds.
type sideCounters struct {
	udp, icmp, other atomic.Uint64
	fragments        atomic.Uint64
	resets           atomic.Uint64
	syns             atomic.Uint64
	accepted         atomic.Uint64
	refused          atomic.Uint64
	expired          atomic.Uint64
	dialled          atomic.Uint64
	narrowed         atomic.Uint64
	drops            [packet.Reasons]atomic.Uint64
}

// SideCounters are totals of one side since the stack was made. Packets and
// bytes are of the device: what arrived from that side, and what was sent to it.
type SideCounters struct {
	RxPackets, RxBytes uint64
	TxPackets, TxBytes uint64
	ReadErrors         uint64
	WriteErrors        uint64 // packets that the device did not take
	AcksMerged         uint64 // bare ACKs that a later packet made superfluous

	ForwardedUDP, ForwardedICMP, ForwardedOther uint64 // packets that arrived here and left on the other side
	TCPFragments                                uint64
	Resets                                      uint64 // RSTs for segments of unknown connections

	SYNs, Accepted, Refused, Expired, Dialled uint64
	Narrowed                                  uint64 // connections whose path seems to swallow large packets

	// Drops has every reason for which a packet was dropped.
	Drops map[packet.Reason]uint64
}

// TCPCounters are gVisor's totals over both sides.
type TCPCounters struct {
	Retransmits, Timeouts uint64
	InvalidSegments       uint64
	ResetsReceived        uint64 // for connections, whether they ended them or not
	QueueDrops            uint64 // segments for which a connection had no room
	Established           uint64 // connections now
}

// Counters are a stack's totals.
type Counters struct {
	App, Wire SideCounters
	TCP       TCPCounters
	// Held is how many bytes the connections' buffers hold now, Stopped how many
	// writes had to wait because that was as much as they may.
	Held    int64
	Stopped uint64
}

// Side returns one side's counters.
func (c *Counters) Side(s aio.Side) *SideCounters {
	if s == aio.App {
		return &c.App
	}
	return &c.Wire
}

// Counters adds up the loops' figures. It may be called from any goroutine.
func (s *Stack) Counters() Counters {
	var t Counters
	for _, l := range s.loops {
		t.Held += l.memory.held.Load()
		t.Stopped += l.memory.stopped.Load()
		for _, side := range sides {
			t.Side(side).add(l, side)
		}
		if l.started.Load() {
			t.TCP.add(l)
			for _, side := range sides {
				t.Side(side).drop(packet.Reassembly, l.core.unassembled(side))
			}
		}
	}
	return t
}

func (t *SideCounters) add(l *loop, side aio.Side) {
	k, c := &l.links[side].Counters, &l.counters[side]
	t.RxPackets += k.RxPackets.Load()
	t.RxBytes += k.RxBytes.Load()
	t.TxPackets += k.TxPackets.Load()
	t.TxBytes += k.TxBytes.Load()
	t.ReadErrors += k.ReadErrors.Load()
	t.WriteErrors += k.WriteErrors.Load()
	t.AcksMerged += k.AcksMerged.Load()
	t.ForwardedUDP += c.udp.Load()
	t.ForwardedICMP += c.icmp.Load()
	t.ForwardedOther += c.other.Load()
	t.TCPFragments += c.fragments.Load()
	t.Resets += c.resets.Load()
	t.SYNs += c.syns.Load()
	t.Accepted += c.accepted.Load()
	t.Refused += c.refused.Load()
	t.Expired += c.expired.Load()
	t.Dialled += c.dialled.Load()
	t.Narrowed += c.narrowed.Load()
	for r := range c.drops {
		t.drop(packet.Reason(r), c.drops[r].Load())
	}
}

func (t *SideCounters) drop(why packet.Reason, n uint64) {
	if n == 0 {
		return
	}
	if t.Drops == nil {
		t.Drops = map[packet.Reason]uint64{}
	}
	t.Drops[why] += n
}

func (t *TCPCounters) add(l *loop) {
	s := l.core.stack.Stats()
	t.Retransmits += s.TCP.Retransmits.Value()
	t.Timeouts += s.TCP.Timeouts.Value()
	t.InvalidSegments += s.TCP.InvalidSegmentsReceived.Value()
	t.ResetsReceived += s.TCP.ResetsReceived.Value()
	t.QueueDrops += s.DroppedPackets.Value()
	t.Established += s.TCP.CurrentEstablished.Value()
}
