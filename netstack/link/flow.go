package link

import (
	"encoding/binary"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// HoldBytes is how much may wait for its ACK: at 64 KB the sender hears.
	HoldBytes = 64 << 10
	// HoldTime is how long an ACK waits while the loop is busy. 1 ms is too
	// short at 64 connections, and a timer alone costs bulk two thirds.
	HoldTime = 10 * time.Millisecond

	patientTurns = 3
	patientBytes = 2 * 536
)

// Flow is what a link knows about a connection: the ACK it owes. It is the
// owner that gVisor stamps on the connection's packets. gVisor has no delayed
// ACK: left alone, a ping-pong writes two packets for every one that carries
// bytes.
//
// An ACK waits in one of two ways. Bytes that the stack took in without
// answering are Due, and whoever lets it do that calls for the ACK in time. A
// bare ACK that the stack did build is held here.
type Flow struct {
	// Due is how many received bytes no packet has acknowledged. The link sets it
	// to zero when one leaves.
	Due int
	// turns counts how often in a row one segment came in and then bytes left;
	// answered is whether bytes left since the last segment.
	turns    uint8
	answered bool
	// ISS is the sequence number of the SYN, or SYN-ACK, that was sent.
	ISS uint32
	// Disordered counts segments that came before others that are missing: the
	// bare ACKs with SACK blocks by which the peer is told so.
	Disordered uint32
	// Through lets the next bare ACK pass: somebody waited for it long enough.
	Through bool

	sent sent

	held    *stack.PacketBuffer
	heldAt  time.Duration
	lastAck uint32 // of the packet that left last
	started bool   // lastAck means something
	listed  bool   // in Link.held
}

// Owe adds a segment of n received bytes.
func (f *Flow) Owe(n int) {
	if !f.answered {
		f.turns = 0 // two in a row: the other end is not waiting for our bytes
	}
	f.answered = false
	f.Due += n
}

// Patient reports whether the ACK that is due may wait although nobody is busy:
// the two ends have taken turns, so it will leave with the next bytes, and what
// waits is less than the two segments after which an ACK is a must (RFC 5681
// section 4.2). Without it every message at low load costs one more packet, a
// third of the whole.
func (f *Flow) Patient() bool { return f.turns >= patientTurns && f.Due < patientBytes }

var _ tcpip.PacketOwner = (*Flow)(nil)

// KUID implements tcpip.PacketOwner.
func (*Flow) KUID() uint32 { return 0 }

// KGID implements tcpip.PacketOwner.
func (*Flow) KGID() uint32 { return 0 }

// hold decides about a packet of f: true means that it was kept, false that it
// is to leave now, before which hold has dropped or sent what waited.
//
// Only an ACK without payload, other flags or SACK blocks waits. The same
// number again is a duplicate, a window update or a probe's answer, whose whole
// meaning is that it arrives: both leave.
func (l *Link) hold(f *Flow, pkt *stack.PacketBuffer) bool {
	th := pkt.TransportHeader().Slice()
	if len(th) < 20 {
		return false
	}
	ack := binary.BigEndian.Uint32(th[8:])
	if th[13]&flagSYN != 0 {
		f.ISS = binary.BigEndian.Uint32(th[4:])
		f.sent.next = f.ISS + 1
	}
	if len(th) > 20 && bareAck(th) && !plainOptions(th[20:]) {
		f.Disordered++
	}
	due, through := f.Due, f.Through
	f.Due, f.Through = 0, false
	size := pkt.Data().Size()
	if size > 0 && l.Stalled != nil && f.sent.add(binary.BigEndian.Uint32(th[4:]), size) {
		l.Stalled(pkt)
	}
	if through || !bareAck(th) || size > 0 {
		if f.held != nil || due > 0 && !through {
			f.drop() // this packet carries the ACK, or ends the matter
			l.Counters.AcksMerged.Add(1)
		}
		if !through {
			if f.turns < patientTurns && !f.answered {
				f.turns++
			}
			f.answered = true
		}
		f.lastAck, f.started = ack, th[13]&flagACK != 0
		return false
	}
	plain, since := plainOptions(th[20:]), l.now()
	if f.held != nil {
		since = f.heldAt
		if plain && binary.BigEndian.Uint32(f.held.TransportHeader().Slice()[8:]) != ack {
			f.drop()
			l.Counters.AcksMerged.Add(1)
		} else {
			l.release(f)
			plain = false
		}
	}
	waiting := int32(ack - f.lastAck)
	if !f.started {
		waiting = 1
	}
	if !plain || waiting <= 0 || waiting >= HoldBytes {
		f.lastAck, f.started = ack, true
		return false
	}
	f.held, f.heldAt = pkt.IncRef(), since
	if !f.listed {
		f.listed = true
		l.held = append(l.held, f)
	}
	return true
}

const (
	flagSYN = 0x02
	flagACK = 0x10
)

func bareAck(th []byte) bool { return th[13] == flagACK }

// plainOptions: none, or the timestamp alone as gVisor lays it out.
func plainOptions(o []byte) bool {
	return len(o) == 0 || len(o) == 12 && o[0] == 1 && o[1] == 1 && o[2] == 8 && o[3] == 10
}

func (f *Flow) drop() {
	if f.held != nil {
		f.held.DecRef()
		f.held = nil
	}
}

// release sends what f holds.
func (l *Link) release(f *Flow) {
	if f.held == nil {
		return
	}
	f.lastAck, f.started = binary.BigEndian.Uint32(f.held.TransportHeader().Slice()[8:]), true
	l.push(f.held)
	f.held = nil
}

// Holding reports whether an ACK waits.
func (l *Link) Holding() bool { return len(l.held) > 0 }

// FlushAcks sends the held ACKs that waited long enough, or all. A Flush must
// follow.
func (l *Link) FlushAcks(all bool) {
	if len(l.held) == 0 {
		return
	}
	now, kept := l.now(), l.held[:0]
	for _, f := range l.held {
		if f.held != nil && !all && now-f.heldAt < HoldTime {
			kept = append(kept, f)
			continue
		}
		l.release(f)
		f.listed = false
	}
	clear(l.held[len(kept):])
	l.held = kept
}
