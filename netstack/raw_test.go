package netstack_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack"
	"github.com/tunmesh/tunmesh/netstack/memlink"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

// raw is a stack whose two networks are this test: packets are made and read by
// hand.
type raw struct {
	t     *testing.T
	stack *netstack.Stack
	// far are the other ends of the stack's devices.
	far  [2]*memlink.End
	stop func()
}

func newRaw(t *testing.T, onSYN func(*netstack.Pending), tune ...func(*netstack.Config)) *raw {
	t.Helper()
	r := &raw{t: t}
	var devs [2]netstack.Device
	for side := range r.far {
		a, b, err := memlink.Pair()
		if err != nil {
			t.Fatal(err)
		}
		devs[side], r.far[side] = a, b
		t.Cleanup(func() { _ = b.Close() })
	}
	cfg := netstack.Config{App: devs[:1], Wire: devs[1:], Addrs: []netip.Addr{pod4, pod6}, MTU: 1500, OnSYN: onSYN}
	for _, f := range tune {
		f(&cfg)
	}
	s, err := netstack.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.stack = s
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	r.stop = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(r.stop)
	return r
}

// segment is what matters of a TCP segment.
type segment struct {
	src, dst netip.AddrPort
	seq, ack uint32
	flags    byte
	payload  []byte
	options  []byte
}

const (
	fFIN = 1
	fSYN = 2
	fRST = 4
	fPSH = 8
	fACK = 16
)

// tcp makes the bytes of a TCP header and payload.
func (s segment) tcp() []byte {
	b := make([]byte, 20, 20+len(s.options)+len(s.payload))
	binary.BigEndian.PutUint16(b, s.src.Port())
	binary.BigEndian.PutUint16(b[2:], s.dst.Port())
	binary.BigEndian.PutUint32(b[4:], s.seq)
	binary.BigEndian.PutUint32(b[8:], s.ack)
	b[12], b[13] = byte(5+len(s.options)/4)<<4, s.flags
	binary.BigEndian.PutUint16(b[14:], 60000)
	return append(append(b, s.options...), s.payload...)
}

// packet makes the whole packet; its TCP checksum is left to the header.
func (s segment) packet() []byte { return ipPacket(s.src.Addr(), s.dst.Addr(), 6, 0, s.tcp()) }

// ipPacket makes an IP packet; fragment is IPv4's flags and offset, and for
// IPv6 what its fragment header says, which is there if it is not zero.
func ipPacket(src, dst netip.Addr, proto byte, fragment uint16, payload []byte) []byte {
	if src.Is6() {
		b := make([]byte, 40)
		b[0], b[6], b[7] = 0x60, proto, 64
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
		if fragment != 0 {
			b[6] = 44
			f := []byte{proto, 0, 0, 0, 0, 0, 0, 7}
			binary.BigEndian.PutUint16(f[2:], fragment&0x1fff<<3|fragment>>13&1)
			b = append(b, f...)
		}
		b = append(b, payload...)
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		return b
	}
	b := make([]byte, 20)
	b[0], b[8], b[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(b[4:], 7)
	binary.BigEndian.PutUint16(b[6:], fragment)
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 > 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum))
	return b
}

// send puts a packet on a side. Its transport checksum counts as partial.
func (r *raw) send(side aio.Side, b []byte) {
	r.t.Helper()
	if err := r.far[side].Write(&tun.Header{Flags: tun.NeedsChecksum}, [][]byte{b}); err != nil {
		r.t.Fatal(err)
	}
}

// receive is the next TCP segment on a side, within a second; ok is false when
// there is none.
func (r *raw) receive(side aio.Side, within time.Duration) (s segment, ok bool) {
	r.t.Helper()
	head, tail := make([]byte, 2048), make([]byte, 1<<16)
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
		var h tun.Header
		n, err := r.far[side].Read(&h, head, tail)
		if errors.Is(err, tun.ErrEmpty) {
			continue
		}
		if err != nil {
			r.t.Fatal(err)
		}
		return parse(r.t, append(head[:min(n, len(head)):min(n, len(head))], tail[:max(0, n-len(head))]...)), true
	}
	return s, false
}

// want is receive that must get a segment.
func (r *raw) want(side aio.Side) segment {
	r.t.Helper()
	s, ok := r.receive(side, 2*time.Second)
	if !ok {
		r.t.Fatalf("nothing came on the %v side", side)
	}
	return s
}

// silence wants nothing to come.
func (r *raw) silence(side aio.Side) {
	r.t.Helper()
	if s, ok := r.receive(side, 30*time.Millisecond); ok {
		r.t.Errorf("%+v came on the %v side, want nothing", s, side)
	}
}

func parse(t *testing.T, b []byte) (s segment) {
	t.Helper()
	l4 := 20
	src, dst := b[12:16], b[16:20]
	if b[0]>>4 == 6 {
		l4, src, dst = 40, b[8:24], b[24:40]
	}
	th := b[l4:]
	if len(th) < 20 {
		t.Fatalf("a packet of %d bytes is no TCP segment", len(b))
	}
	from, _ := netip.AddrFromSlice(src)
	to, _ := netip.AddrFromSlice(dst)
	s.src = netip.AddrPortFrom(from, binary.BigEndian.Uint16(th))
	s.dst = netip.AddrPortFrom(to, binary.BigEndian.Uint16(th[2:]))
	s.seq, s.ack, s.flags = binary.BigEndian.Uint32(th[4:]), binary.BigEndian.Uint32(th[8:]), th[13]
	s.payload = append([]byte(nil), th[th[12]>>4*4:]...)
	return s
}

// counter reads one of the stack's counters until it is what is wanted.
func (r *raw) count(what string, of func(netstack.Counters) uint64, want uint64) {
	r.t.Helper()
	var got uint64
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if got = of(r.stack.Counters()); got == want {
			return
		}
	}
	r.t.Errorf("%s: %d, want %d", what, got, want)
}

// connect shakes hands as a client at src and returns the next segment to send.
func (r *raw) connect(side aio.Side, src, dst netip.AddrPort) segment {
	r.t.Helper()
	r.send(side, segment{src: src, dst: dst, seq: 1000, flags: fSYN}.packet())
	sa := r.want(side)
	if sa.flags != fSYN|fACK || sa.ack != 1001 {
		r.t.Fatalf("no SYN-ACK: %+v", sa)
	}
	next := segment{src: src, dst: dst, seq: 1001, ack: sa.seq + 1, flags: fACK}
	r.send(side, next.packet())
	return next
}
