package tap

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"

	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

const (
	// maxCaptures bounds the captures at once: each copies every packet.
	maxCaptures = 2
	// maxWaiting bounds the bytes of packets that wait to be sent, for each capture;
	// those beyond are lost, and counted.
	maxWaiting = 2 << 20
	// packetCost is what a packet costs beside its bytes.
	packetCost = 96
	// maxMessage is about how many bytes of packets are sent in one message.
	maxMessage = 128 << 10
	// maxSnap is more than any packet has.
	maxSnap = 1 << 16
)

// Packets is where packets are seen.
type Packets struct {
	// Watch has each packet shown to a function from now on, or to none. The
	// function borrows the parts.
	Watch func(func(app, sent bool, parts [][]byte, size int))
	// Connections is how many TCP connections there are now.
	Connections func() int
}

// SetPackets says where packets are seen; without, captures are refused. It is
// called once, before Attach.
func (h *Hub) SetPackets(p Packets) { h.packets = p }

// capture is one that runs. It is immutable but for what waits.
type capture struct {
	id   uint64
	snap int

	mu      sync.Mutex
	waiting []wire.Packet
	size    int
	lost    uint64
	first   bool // the message that is sent at once is still to be sent
	older   uint32
}

// capture obeys a command that is about a capture: one that begins or ends one.
// The caller holds mu.
func (h *Hub) capture(c *wire.Command) (done bool, err error) {
	var old []*capture
	if p := h.captures.Load(); p != nil {
		old = *p
	}
	was := slices.IndexFunc(old, func(x *capture) bool { return x.id == c.Tap })
	switch {
	case c.Capture != nil && was >= 0:
		return true, nil // told twice
	case c.Capture != nil && h.packets.Watch == nil:
		return true, errors.New("tap: packets are not seen here")
	case c.Capture != nil && len(old) >= maxCaptures:
		return true, errors.New("tap: too many captures at once")
	case c.Capture != nil:
		snap := int(min(c.Capture.SnapLength, maxSnap))
		if snap == 0 {
			snap = maxSnap
		}
		x := &capture{id: c.Tap, snap: snap, first: true, older: uint32(max(h.packets.Connections(), 0))} //nolint:gosec // there are never so many
		next := append(slices.Clone(old), x)
		h.captures.Store(&next)
		if len(old) == 0 {
			h.packets.Watch(h.packet)
		}
		signal(h.wake)
		return true, nil
	case was < 0:
		return false, nil
	}
	next := slices.Delete(slices.Clone(old), was, was+1)
	if len(next) == 0 {
		h.uncapture()
	} else {
		h.captures.Store(&next)
	}
	return true, nil
}

// uncapture ends all captures. The caller holds mu.
func (h *Hub) uncapture() {
	if h.captures.Load() != nil {
		h.captures.Store(nil)
		h.packets.Watch(nil)
	}
}

// packet is called with each packet, on the loop that has it: it copies what is
// asked for and goes on.
func (h *Hub) packet(app, sent bool, parts [][]byte, size int) {
	p := h.captures.Load()
	if p == nil || !app && len(parts) > 0 && concerns(parts[0], h.cfg.Own) {
		return
	}
	at := h.cfg.Now().UnixNano()
	for _, c := range *p {
		if c.add(at, app, sent, parts, size) {
			signal(h.full)
		}
	}
	signal(h.wake)
}

// add reports whether a message's worth waits.
func (c *capture) add(at int64, app, sent bool, parts [][]byte, size int) bool {
	n := min(size, c.snap)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size+n+packetCost > maxWaiting {
		c.lost++
		return true
	}
	data := make([]byte, 0, n)
	for _, b := range parts {
		data = append(data, b[:min(len(b), n-len(data))]...)
	}
	c.size += n + packetCost
	c.waiting = append(c.waiting, wire.Packet{UnixNano: at, App: app, Sent: sent, Length: uint32(size), Data: data}) //nolint:gosec // at most 64 KB
	return c.size >= maxMessage
}

// take takes about one message's worth of what waits; false: there is nothing.
func (c *capture) take() (wire.Packets, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := wire.Packets{Tap: c.id, Lost: c.lost}
	if c.first {
		m.Connections = c.older
	}
	n, size := 0, 0
	for n < len(c.waiting) && (n == 0 || size+len(c.waiting[n].Data)+packetCost <= maxMessage) {
		size += len(c.waiting[n].Data) + packetCost
		n++
	}
	if n == 0 && c.lost == 0 && !c.first {
		return m, false
	}
	m.Packets = c.waiting[:n:n]
	c.waiting = c.waiting[n:]
	if len(c.waiting) == 0 {
		c.waiting = nil
	}
	c.size -= size
	c.lost, c.first = 0, false
	return m, true
}

// concerns reports whether an IP packet of TCP is from or to an address and port.
func concerns(b []byte, a netip.AddrPort) bool {
	var src, dst netip.Addr
	var ports []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		head := int(b[0]&15) * 4
		if b[9] != 6 || head < 20 || len(b) < head+4 {
			return false
		}
		src, dst, ports = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[head:]
	case len(b) >= 44 && b[0]>>4 == 6:
		if b[6] != 6 {
			return false
		}
		src, dst, ports = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[40:]
	default:
		return false
	}
	own := a.Addr().Unmap()
	return src == own && binary.BigEndian.Uint16(ports) == a.Port() || dst == own && binary.BigEndian.Uint16(ports[2:]) == a.Port()
}
