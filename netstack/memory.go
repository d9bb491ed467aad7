package netstack

import (
	"errors"
	"reflect"
	"sync/atomic"
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/tunmesh/tunmesh/netstack/packet"
)

// memory bounds what the buffers of a loop's connections hold, all together. A
// connection may hold, in each direction, as much as is free: those whose peers
// don't read, or who are not read, share what there is, and never use up what
// others need to move. One that holds nothing may always hold a segment, so
// that everybody makes progress.
//
// Beyond, Write takes no more, and received bytes are dropped without their
// ACK: the peer sends them again, later.
type memory struct {
	limit, used int
	at          offsets
	lists       lists
	// For others to read; held is used, as of the last pass.
	held    atomic.Int64
	stopped atomic.Uint64 // writes that were not taken
}

// leastWrite is how much an empty send buffer takes whatever is free.
const leastWrite = 4 << 10

func (m *memory) free() int { return m.limit - m.used }

// offsets are where an endpoint counts what its two buffers hold. gVisor tells
// of neither; inlineTCP's pin covers these too.
type offsets struct{ sent, received uintptr }

func findOffsets() (offsets, error) {
	find := func(path ...string) (uintptr, bool) {
		t, at := reflect.TypeFor[tcp.Endpoint](), uintptr(0)
		for _, name := range path {
			if t.Kind() != reflect.Struct {
				return 0, false
			}
			f, ok := t.FieldByName(name)
			if !ok || len(f.Index) != 1 {
				return 0, false
			}
			t, at = f.Type, at+f.Offset
		}
		return at, t.Kind() == reflect.Int || t.Kind() == reflect.Int32
	}
	sent, ok1 := find("sndQueueInfo", "TCPSndBufState", "SndBufUsed")
	received, ok2 := find("rcvMemUsed", "value")
	if !ok1 || !ok2 {
		return offsets{}, errors.New("find an endpoint's buffers: this is not the gVisor that this package was written for")
	}
	return offsets{sent, received}, nil
}

// account takes note of what the connection's buffers hold now. It follows
// whatever may have changed that: the loop is the only one to do so.
func (c *conn) account() {
	m := &c.l.memory
	p := unsafe.Pointer(c.ep)
	sent, received := *(*int)(unsafe.Add(p, m.at.sent)), int(*(*int32)(unsafe.Add(p, m.at.received)))
	m.used += sent - c.sent + received - c.received
	c.sent, c.received = sent, received
	if c.gone && received == 0 {
		delete(c.l.unread, c)
	}
	if c.stopped && (sent == 0 || sent < m.free()) {
		c.stopped = false
		c.writable = true
		c.enqueue()
	}
}

// writes says how much of n bytes the send buffer may take now.
func (c *conn) writes(n int) int {
	m := &c.l.memory
	room := m.free() - c.sent
	if c.sent == 0 {
		room = max(room, leastWrite)
	}
	if room >= n {
		return n
	}
	c.stopped = true
	m.stopped.Add(1)
	return max(room, 0)
}

// crowds reports that received bytes have to be dropped, and counts it.
func (c *conn) crowds() bool {
	if c.received == 0 || c.received < c.l.memory.free() {
		return false
	}
	c.l.drop(c.side, packet.MemoryLimit)
	c.crowded++
	return true
}
