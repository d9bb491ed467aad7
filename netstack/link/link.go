// Package link is the layer between one queue of a TUN device and gVisor: it
// turns packets into packet buffers and back, keeps virtio's segmentation
// offload whole in both directions, gathers what the stack sends into one flush
// per pass of the loop, and holds back bare ACKs that a later packet makes
// superfluous. It refuses to decide anything about a packet (package packet
// does) and knows connections only as a Flow, the slot for one held ACK.
//
// Why by hand: gVisor's fdbased endpoint does not serve a TUN with segmentation
// offload, channel.Endpoint adds a hop and drops when full, and the default
// queueing discipline allocates for every packet. Writes are what costs (4 µs
// each, the kernel's whole receive path runs inside): half of a round trip
// without the hold and the flush.
//
// A Link belongs to one loop; every method is called on its goroutine.
package link

import (
	"errors"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/tunmesh/tunmesh/netstack/chunk"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

const (
	// headSize holds any packet that is not segmentation offload's, at the usual
	// MTU, so that small packets cost one copy and no 64 KB view.
	headSize = 2048
	// tailSize holds the rest of the largest packet, behind room for the head: a
	// large packet is one piece for who reads it.
	tailSize = chunk.Size - headSize
	// copyLimit is the largest packet that is copied into a view of its own
	// size. gVisor accounts a segment's payload, not its room: handing a 64 KB
	// view to every 3 KB segment would hold 20 times what the window says.
	copyLimit = 16 << 10
	// outLimit is how many packets wait for the flush before it comes early.
	outLimit = 256
	// outBytes is how many bytes wait for it: each packet is a write of its own, so
	// bulk gains nothing by waiting, and the next process could be at work already.
	outBytes = 120 << 10
)

// Counters are a link's figures, readable from any goroutine.
type Counters struct {
	RxPackets, RxBytes atomic.Uint64
	TxPackets, TxBytes atomic.Uint64
	ReadErrors         atomic.Uint64
	WriteErrors        atomic.Uint64 // packets that the device did not take
	AcksMerged         atomic.Uint64 // bare ACKs that a later packet replaced
}

// Watcher hears of a packet on the loop that has it. It borrows the parts, which
// are the packet one after the other, and must not block.
type Watcher func(sent bool, parts [][]byte, size int)

// Link is one side's device of one loop, as gVisor's link endpoint and queueing
// discipline in one.
type Link struct {
	Counters Counters
	// Stalled, if set, hears of a segment that was sent again so often that its
	// size may be why nobody acknowledges it. It is called from inside the stack
	// and only borrows the packet.
	Stalled func(*stack.PacketBuffer)
	// Watch, while it points to something, hears of every packet that is read from
	// the device or written to it. It may be changed from any goroutine.
	Watch atomic.Pointer[Watcher]
	// Chunks is what large packets are read into.
	Chunks chunk.Source

	dev        tun.Device
	mtu        uint32
	dispatcher stack.NetworkDispatcher

	// The packet last read, until the next Read.
	hdr  tun.Header
	size int
	head [headSize]byte
	tail *buffer.View // nil after it was given away

	out    []*stack.PacketBuffer
	waits  int        // bytes in out
	outHdr tun.Header // of the packet being written
	parts  [][]byte
	held   []*Flow
	now    func() time.Duration
	gone   error
}

// New makes a link over dev, which stays the caller's. now is the loop's clock.
func New(dev tun.Device, mtu uint32, now func() time.Duration) *Link {
	return &Link{dev: dev, mtu: mtu, now: now}
}

// Read takes the next packet from the device and keeps it until the next Read.
// Errors are tun's.
func (l *Link) Read() error {
	if l.tail == nil {
		l.tail = l.Chunks.New()
	}
	n, err := l.dev.Read(&l.hdr, l.head[:], l.tail.AsSlice()[headSize:])
	if err != nil {
		if !errors.Is(err, tun.ErrEmpty) {
			l.Counters.ReadErrors.Add(1)
		}
		return err
	}
	l.size = n
	l.Counters.RxPackets.Add(1)
	l.Counters.RxBytes.Add(uint64(n))
	if w := l.Watch.Load(); w != nil {
		(*w)(false, [][]byte{l.Head(), l.rest(n)}, n)
	}
	return nil
}

// Head is the beginning of the packet last read: its first 2 KB or all of it.
func (l *Link) Head() []byte { return l.head[:min(l.size, headSize)] }

// Size is the length of the packet last read.
func (l *Link) Size() int { return l.size }

// Header is the virtio header of the packet last read.
func (l *Link) Header() tun.Header { return l.hdr }

// rest is what follows Head.
func (l *Link) rest(size int) []byte {
	if size <= headSize {
		return nil
	}
	return l.tail.AsSlice()[headSize:size]
}

// Load makes the link's packet one that another loop has read.
func (l *Link) Load(h tun.Header, packet []byte) {
	if l.tail == nil {
		l.tail = l.Chunks.New()
	}
	l.hdr, l.size = h, len(packet)
	n := copy(l.head[:], packet)
	copy(l.tail.AsSlice()[headSize:], packet[n:])
}

// Copy returns the packet last read in memory of its own.
func (l *Link) Copy() []byte {
	return append(append(make([]byte, 0, l.size), l.Head()...), l.rest(l.size)...)
}

// ValidTCP reports whether the packet last read, size bytes of it, needs no
// checksum check or passes it; its TCP header is at l4.
func (l *Link) ValidTCP(l4, size int) bool {
	return l.hdr.Verified() || tun.ValidTCP(l.head[:min(size, headSize)], l.rest(size), l4)
}

// Take makes a packet buffer of the first size bytes of the packet last read.
// The caller owns it, and must not call Take again before the next Read.
func (l *Link) Take(size int) *stack.PacketBuffer {
	var payload buffer.Buffer
	if size <= copyLimit {
		v := buffer.NewViewSize(size)
		b := v.AsSlice()
		n := copy(b, l.head[:min(size, headSize)])
		copy(b[n:], l.rest(size))
		payload = buffer.MakeWithView(v)
	} else {
		copy(l.tail.AsSlice(), l.head[:])
		l.tail.CapLength(size)
		payload = buffer.MakeWithView(l.tail)
		l.tail = nil
	}
	return stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: payload})
}

// Forward writes the packet last read, unchanged, to another link's device at
// once: it stays in the buffers it was read into.
func (l *Link) Forward(to *Link) error {
	parts := [2][]byte{l.Head(), l.rest(l.size)}
	return to.write(&l.hdr, parts[:], l.size)
}

func (l *Link) write(h *tun.Header, parts [][]byte, size int) error {
	err := l.dev.Write(h, parts)
	if err != nil {
		l.Counters.WriteErrors.Add(1)
		if errors.Is(err, tun.ErrGone) && l.gone == nil {
			l.gone = err
		}
		return err
	}
	l.Counters.TxPackets.Add(1)
	l.Counters.TxBytes.Add(uint64(size))
	if w := l.Watch.Load(); w != nil {
		(*w)(true, parts, size)
	}
	return nil
}

// Gone is why the device can never be written again, or nil.
func (l *Link) Gone() error { return l.gone }

// Flush writes what the stack sent since the last flush, in order.
func (l *Link) Flush() {
	for i, pkt := range l.out {
		l.put(pkt)
		pkt.DecRef()
		l.out[i] = nil
	}
	l.out, l.waits = l.out[:0], 0
}

// Discard drops what waits for a flush or is held: the link is ending.
func (l *Link) Discard() {
	for i, pkt := range l.out {
		pkt.DecRef()
		l.out[i] = nil
	}
	l.out = l.out[:0]
	for _, f := range l.held {
		f.drop()
		f.listed = false
	}
	l.held = nil
	if l.tail != nil {
		l.tail.Release()
		l.tail = nil
	}
}

// put writes one packet of the stack. A segment with offload carries what the
// kernel is to finish: the checksum, and the cutting when it is longer than one
// MSS. Resets and SYNs come without offload and are complete.
func (l *Link) put(pkt *stack.PacketBuffer) {
	h := &l.outHdr
	*h = tun.Header{}
	if g := &pkt.GSOOptions; g.Type != stack.GSONone && g.NeedsCsum {
		h.Flags = tun.NeedsChecksum
		h.ChecksumStart = g.L3HdrLen
		h.ChecksumOffset = g.CsumOffset
		if pkt.Data().Size() > int(g.MSS) {
			h.GSOType = tun.GSOTCPv4
			if g.Type == stack.GSOTCPv6 {
				h.GSOType = tun.GSOTCPv6
			}
			h.HeaderLen = uint16(pkt.HeaderSize())
			h.GSOSize = g.MSS
		}
	}
	l.parts = l.parts[:0]
	views, skip := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		l.parts = append(l.parts, b[skip:])
		skip = 0
	}
	_ = l.write(h, l.parts, pkt.Size()) // counted; TCP sends it again
	clear(l.parts)
}

// WritePacket implements stack.QueueingDiscipline.
func (l *Link) WritePacket(pkt *stack.PacketBuffer) tcpip.Error {
	if f, ok := pkt.Owner.(*Flow); ok && l.hold(f, pkt) {
		return nil
	}
	l.push(pkt.IncRef())
	return nil
}

func (l *Link) push(pkt *stack.PacketBuffer) {
	l.waits += pkt.Size()
	if l.out = append(l.out, pkt); len(l.out) >= outLimit || l.waits >= outBytes {
		l.Flush()
	}
}

// The rest of stack.LinkEndpoint. There is no link layer: no header, no
// address, nothing to resolve.

// MTU implements stack.NetworkLinkEndpoint.
func (l *Link) MTU() uint32 { return l.mtu }

// SetMTU implements stack.NetworkLinkEndpoint.
func (l *Link) SetMTU(mtu uint32) { l.mtu = mtu }

// MaxHeaderLength implements stack.NetworkLinkEndpoint.
func (*Link) MaxHeaderLength() uint16 { return 0 }

// LinkAddress implements stack.NetworkLinkEndpoint.
func (*Link) LinkAddress() tcpip.LinkAddress { return "" }

// SetLinkAddress implements stack.NetworkLinkEndpoint.
func (*Link) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements stack.NetworkLinkEndpoint. Checksums of what comes in
// were looked at before; transmit offload is not claimed, because SYN and RST
// carry no GSO and would leave without a checksum.
func (*Link) Capabilities() stack.LinkEndpointCapabilities { return stack.CapabilityRXChecksumOffload }

// Attach implements stack.NetworkLinkEndpoint.
func (l *Link) Attach(d stack.NetworkDispatcher) { l.dispatcher = d }

// IsAttached implements stack.NetworkLinkEndpoint.
func (l *Link) IsAttached() bool { return l.dispatcher != nil }

// Dispatcher is the NIC that gVisor attached.
func (l *Link) Dispatcher() stack.NetworkDispatcher { return l.dispatcher }

// Wait implements stack.NetworkLinkEndpoint.
func (*Link) Wait() {}

// ARPHardwareType implements stack.NetworkLinkEndpoint.
func (*Link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }

// AddHeader implements stack.NetworkLinkEndpoint.
func (*Link) AddHeader(*stack.PacketBuffer) {}

// ParseHeader implements stack.NetworkLinkEndpoint.
func (*Link) ParseHeader(*stack.PacketBuffer) bool { return true }

// Close implements stack.NetworkLinkEndpoint and stack.QueueingDiscipline.
func (*Link) Close() {}

// SetOnCloseAction implements stack.NetworkLinkEndpoint.
func (*Link) SetOnCloseAction(func()) {}

// GSOMaxSize implements stack.GSOEndpoint.
func (*Link) GSOMaxSize() uint32 { return tun.MaxPacket }

// SupportedGSO implements stack.GSOEndpoint.
func (*Link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// WritePackets implements stack.LinkWriter, for gVisor's paths round the
// queueing discipline (it has none today).
func (l *Link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for _, p := range pkts.AsSlice() {
		l.push(p.IncRef())
	}
	return pkts.Len(), nil
}

var (
	_ stack.LinkEndpoint       = (*Link)(nil)
	_ stack.GSOEndpoint        = (*Link)(nil)
	_ stack.QueueingDiscipline = (*Link)(nil)
)
