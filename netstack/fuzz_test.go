package netstack

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/memlink"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

// still is a loop that does not run by itself: the fuzzer is its goroutine.
type still struct {
	l   *loop
	far [2]*memlink.End
}

func newStill(tb testing.TB, onSYN func(*Pending)) *still {
	tb.Helper()
	s := &still{}
	var devs [2]Device
	for side := range devs {
		a, b, err := memlink.Pair()
		if err != nil {
			tb.Fatal(err)
		}
		devs[side], s.far[side] = a, b
	}
	st, err := New(Config{
		App: devs[:1], Wire: devs[1:], MTU: 1500, OnSYN: onSYN, MaxPending: 64,
		Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.5"), netip.MustParseAddr("fd00::5")},
	})
	if err != nil {
		tb.Fatal(err)
	}
	s.l = st.loops[0]
	if err := s.l.core.start(s.l); err != nil {
		tb.Fatal(err)
	}
	s.l.started.Store(true)
	tb.Cleanup(func() {
		s.l.end()
		if err := st.closeDevices(); err != nil {
			tb.Error(err)
		}
		for _, e := range s.far {
			_ = e.Close()
		}
	})
	return s
}

// pass is a loop's pass without the wait.
func (s *still) pass(tb testing.TB) {
	l := s.l
	l.clock.refresh()
	for _, side := range sides {
		if _, err := l.drain(side); err != nil {
			tb.Fatal(err)
		}
	}
	l.clock.runDue(1000)
	l.takeMail()
	l.settle()
	l.flush(true)
	// What was sent is read and thrown away.
	var h tun.Header
	head, tail := make([]byte, 2048), make([]byte, 1<<16)
	for _, e := range s.far {
		for {
			if _, err := e.Read(&h, head, tail); err != nil {
				if !errors.Is(err, tun.ErrEmpty) {
					tb.Fatal(err)
				}
				break
			}
		}
	}
}

// mixed answers SYNs in every way, by the client's port.
func mixed(p *Pending) {
	switch p.Src.Port() % 4 {
	case 0:
		p.Refuse()
	case 1:
		p.Drop()
	case 2: // kept until it times out
	case 3:
		if c, err := p.Accept(); err == nil {
			c.SetHandler(&fuzzEcho{})
		}
	}
}

type fuzzEcho struct{}

func (*fuzzEcho) Readable(c aio.Conn) {
	buf := make([]byte, 512)
	for {
		n, err := c.Read(buf)
		_, _ = c.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			_ = c.CloseWrite()
		}
		if err != nil {
			return
		}
	}
}
func (*fuzzEcho) Writable(aio.Conn)      {}
func (*fuzzEcho) Closed(aio.Conn, error) {}

// FuzzPackets sends what it likes from both sides into a living stack: chains of
// packets, each with a length before it. Nothing may break, leave on the other
// side as TCP, or be held for ever.
func FuzzPackets(f *testing.F) {
	chain := func(packets ...[]byte) (out []byte) {
		for _, p := range packets {
			out = append(binary.BigEndian.AppendUint16(out, uint16(len(p))), p...)
		}
		return out
	}
	syn := fuzzTCP(4, 40003, 1, 0, 2, nil)
	ack := fuzzTCP(4, 40003, 2, 0, 16, nil)
	f.Add(chain(syn, ack, fuzzTCP(4, 40003, 2, 0, 24, []byte("hello")), fuzzTCP(4, 40003, 7, 0, 17, nil)), true)
	f.Add(chain(fuzzTCP(6, 40003, 1, 0, 2, nil), fuzzTCP(6, 40003, 2, 0, 20, nil)), true)
	f.Add(chain(fuzzTCP(4, 40000, 1, 0, 2, nil), fuzzTCP(4, 40002, 9, 9, 18, nil), []byte{0x45}), false)
	s := newStill(f, mixed)
	f.Fuzz(func(t *testing.T, b []byte, fromApp bool) {
		side := aio.Wire
		if fromApp {
			side = aio.App
		}
		// No TCP may get past the stack, whatever it is wrapped in.
		s.far[1-side].SetTap(nil)
		var passed []byte
		s.l.links[1-side].Flush()
		own := s.l.device(1 - side).(*memlink.End)
		own.SetTap(func(_ tun.Header, p []byte) (memlink.Verdict, error) {
			if len(p) > 40 && (p[0]>>4 == 4 && p[9] == 6 || p[0]>>4 == 6 && p[6] == 6) {
				passed = append([]byte(nil), p...)
			}
			return memlink.Pass, nil
		})
		for len(b) >= 2 {
			n := min(int(binary.BigEndian.Uint16(b)), len(b)-2)
			p := append([]byte(nil), b[2:2+n]...)
			b = b[2+n:]
			if len(p) >= 20 && p[0]>>4 == 4 {
				fixChecksum(p) // nearly everything else would stop there
			}
			s.acknowledge(side, p)
			// Once vouched for by the kernel, once not.
			for _, flags := range []uint8{tun.NeedsChecksum, 0} {
				if err := s.far[side].Write(&tun.Header{Flags: flags}, [][]byte{p}); err != nil {
					t.Fatal(err)
				}
			}
			s.pass(t)
		}
		if passed != nil {
			t.Fatalf("TCP from the %v side left on the other: % x", side, passed)
		}
		// Time passes, so that what waits gives up.
		s.l.clock.base = s.l.clock.base.Add(-time.Minute)
		s.pass(t)
		s.pass(t)
		if n := len(s.l.pending[0]) + len(s.l.pending[1]); n > 0 {
			t.Fatalf("%d pending connections are left after a minute", n)
		}
		for _, side := range sides {
			if n := s.l.doors[side].opening.used; n < 0 || n > len(s.l.flows[side]) {
				t.Fatalf("%d handshakes, %d connections", n, len(s.l.flows[side]))
			}
		}
	})
}

// acknowledge makes a segment whose ACK number is zero one that knows the
// connection's SYN-ACK, so that the fuzzer gets past the handshake.
func (s *still) acknowledge(side aio.Side, p []byte) {
	l4 := 20
	var k flowKey
	switch {
	case len(p) >= 40 && p[0] == 0x45 && p[9] == 6:
		k = key4(p)
	case len(p) >= 60 && p[0]>>4 == 6 && p[6] == 6:
		l4, k = 40, key6(p)
	default:
		return
	}
	if c := s.l.flows[side][k]; c != nil && binary.BigEndian.Uint32(p[l4+8:]) == 0 {
		binary.BigEndian.PutUint32(p[l4+8:], c.flow.ISS+1)
	}
}

// fuzzTCP is a segment from the app's port to the world.
func fuzzTCP(version byte, port uint16, seq, ack uint32, flags byte, payload []byte) []byte {
	th := make([]byte, 20)
	binary.BigEndian.PutUint16(th, port)
	binary.BigEndian.PutUint16(th[2:], 80)
	binary.BigEndian.PutUint32(th[4:], seq)
	binary.BigEndian.PutUint32(th[8:], ack)
	th[12], th[13], th[14] = 0x50, flags, 0xff
	th = append(th, payload...)
	if version == 6 {
		b := make([]byte, 40)
		b[0], b[6], b[7] = 0x60, 6, 64
		binary.BigEndian.PutUint16(b[4:], uint16(len(th)))
		src, dst := netip.MustParseAddr("fd00::5").As16(), netip.MustParseAddr("2001:db8::1").As16()
		copy(b[8:], src[:])
		copy(b[24:], dst[:])
		return append(b, th...)
	}
	b := make([]byte, 20)
	b[0], b[8], b[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(th)))
	copy(b[12:], []byte{10, 1, 0, 5, 192, 0, 2, 1})
	fixChecksum(b)
	return append(b, th...)
}

func fixChecksum(b []byte) {
	ihl := int(b[0]&15) * 4
	if ihl < 20 || ihl > len(b) {
		return
	}
	b[10], b[11] = 0, 0
	var s uint32
	for i := 0; i < ihl; i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s>>16 > 0 {
		s = s&0xffff + s>>16
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(s))
}
