package link_test

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/tunmesh/tunmesh/netstack/link"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

// recorder is a device that keeps what is written: the ACK numbers, in order.
type recorder struct {
	acks    []uint32
	headers []tun.Header
	sizes   []int
	err     error
	packet  []byte // for Read
}

func (r *recorder) Read(h *tun.Header, head, tail []byte) (int, error) {
	if r.packet == nil {
		return 0, tun.ErrEmpty
	}
	*h = tun.Header{Flags: tun.DataValid}
	n := copy(head, r.packet)
	n += copy(tail, r.packet[n:])
	r.packet = nil
	return n, nil
}

func (r *recorder) Write(h *tun.Header, parts [][]byte) error {
	if r.err != nil {
		return r.err
	}
	b := slices.Concat(parts...)
	r.headers = append(r.headers, *h)
	r.sizes = append(r.sizes, len(b))
	if len(b) >= 40 && b[0]>>4 == 4 {
		r.acks = append(r.acks, binary.BigEndian.Uint32(b[28:]))
	}
	return nil
}

func (*recorder) FD() int      { return -1 }
func (*recorder) Close() error { return nil }

type bench struct {
	*recorder
	l   *link.Link
	now time.Duration
}

func newBench(t *testing.T) *bench {
	b := &bench{recorder: &recorder{}}
	b.l = link.New(b.recorder, 1500, func() time.Duration { return b.now })
	t.Cleanup(b.l.Discard)
	return b
}

const (
	ack = 0x10
	psh = 0x08
	fin = 0x01
	syn = 0x02
	rst = 0x04
)

// send makes the stack send a segment of f: flags, ACK number, payload bytes.
func (b *bench) send(f *link.Flow, flags uint8, number uint32, payload int, options ...byte) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: 40 + len(options), Payload: buffer.MakeWithData(make([]byte, payload))})
	th := header.TCP(pkt.TransportHeader().Push(20 + len(options)))
	th.Encode(&header.TCPFields{AckNum: number, Flags: header.TCPFlags(flags), DataOffset: uint8(20 + len(options))})
	copy(th[20:], options)
	pkt.TransportProtocolNumber = header.TCPProtocolNumber
	nh := header.IPv4(pkt.NetworkHeader().Push(20))
	nh.Encode(&header.IPv4Fields{TotalLength: uint16(pkt.Size()), Protocol: 6})
	pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
	if f != nil {
		pkt.Owner = f
	}
	if err := b.l.WritePacket(pkt); err != nil {
		panic(err.String())
	}
	pkt.DecRef()
}

func (b *bench) expect(t *testing.T, when string, want ...uint32) {
	t.Helper()
	b.l.Flush()
	if !slices.Equal(b.acks, want) {
		t.Errorf("%s: ACKs %v left, want %v", when, b.acks, want)
	}
	b.acks = nil
}

var timestamp = []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}

// Bulk does not wait for the end of the pass; small packets do.
func TestBulkLeavesEarly(t *testing.T) {
	b := newBench(t)
	for range 100 {
		b.send(nil, ack|psh, 1, 100)
	}
	if len(b.sizes) > 0 {
		t.Error("small packets left before the flush")
	}
	b.l.Flush()
	b.sizes = nil
	for range 3 {
		b.send(nil, ack|psh, 1, 65_000)
	}
	if len(b.sizes) != 2 {
		t.Errorf("%d of 3 packets of 64 KB left before the flush, want 2", len(b.sizes))
	}
	b.l.Flush()
	if len(b.sizes) != 3 {
		t.Errorf("%d of 3 packets left", len(b.sizes))
	}
}

func TestBareAcksAreHeld(t *testing.T) {
	b, f := newBench(t), &link.Flow{}
	b.send(f, syn|ack, 1, 0)
	b.expect(t, "SYN-ACK", 1)
	b.send(f, ack, 100, 0, timestamp...)
	b.expect(t, "a bare ACK")
	b.send(f, ack, 200, 0, timestamp...)
	b.expect(t, "a later one replaces it")
	b.send(f, ack|psh, 200, 10)
	b.expect(t, "bytes carry it", 200)
	b.send(f, ack, 300, 0)
	b.l.FlushAcks(false)
	b.expect(t, "too early")
	b.now += link.HoldTime
	b.l.FlushAcks(false)
	b.expect(t, "10 ms later", 300)
	b.send(f, ack, 400, 0)
	if !b.l.Holding() {
		t.Error("nothing is held")
	}
	b.l.FlushAcks(true)
	b.expect(t, "before the loop sleeps", 400)
	b.l.FlushAcks(true)
	b.expect(t, "and only once")
	if b.l.Holding() {
		t.Error("something is still held")
	}
}

func TestTheClockRunsFromTheFirstAck(t *testing.T) {
	b, f := newBench(t), &link.Flow{}
	b.send(f, syn|ack, 1, 0)
	b.expect(t, "SYN-ACK", 1)
	for i := range 10 {
		b.send(f, ack, uint32(10+i), 0)
		b.now += link.HoldTime / 10
	}
	b.l.FlushAcks(false)
	b.expect(t, "ACKs that replace each other do not wait for ever", 19)
}

func TestAcksThatMeanSomethingLeave(t *testing.T) {
	for _, tc := range []struct {
		name string
		send func(b *bench, f *link.Flow)
		want []uint32
	}{
		{"the number again: a duplicate", func(b *bench, f *link.Flow) { b.send(f, ack, 100, 0); b.send(f, ack, 100, 0) }, []uint32{100, 100}},
		{"the number that left last: a window update", func(b *bench, f *link.Flow) { b.send(f, ack, 1, 0) }, []uint32{1}},
		{"SACK blocks", func(b *bench, f *link.Flow) {
			b.send(f, ack, 100, 0, append(slices.Clone(timestamp), 1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2)...)
		}, []uint32{100}},
		{"SACK blocks without timestamps", func(b *bench, f *link.Flow) { b.send(f, ack, 100, 0, 1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2) }, []uint32{100}},
		{"SACK after a plain one: in order", func(b *bench, f *link.Flow) {
			b.send(f, ack, 100, 0)
			b.send(f, ack, 200, 0, 1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2)
		}, []uint32{100, 200}},
		{"64 KB", func(b *bench, f *link.Flow) { b.send(f, ack, 1+link.HoldBytes, 0) }, []uint32{1 + link.HoldBytes}},
		{"FIN", func(b *bench, f *link.Flow) { b.send(f, ack, 100, 0); b.send(f, fin|ack, 100, 0) }, []uint32{100}},
		{"RST", func(b *bench, f *link.Flow) { b.send(f, ack, 100, 0); b.send(f, rst|ack, 100, 0) }, []uint32{100}},
		{"no flow", func(b *bench, _ *link.Flow) { b.send(nil, ack, 100, 0) }, []uint32{100}},
		{"called for", func(b *bench, f *link.Flow) { f.Owe(10); f.Through = true; b.send(f, ack, 100, 0) }, []uint32{100}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, f := newBench(t), &link.Flow{}
			b.send(f, syn|ack, 1, 0)
			b.expect(t, "SYN-ACK", 1)
			tc.send(b, f)
			b.expect(t, tc.name, tc.want...)
		})
	}
}

func TestPatienceComesWithTakingTurns(t *testing.T) {
	b, f := newBench(t), &link.Flow{}
	for i := range 3 {
		f.Owe(128)
		if f.Patient() {
			t.Fatalf("patient after %d turns", i)
		}
		b.send(f, ack|psh, 1, 10)
	}
	if f.Owe(128); !f.Patient() {
		t.Error("not patient although the ends take turns")
	}
	if b.send(f, ack|psh, 1, 10); f.Due != 0 {
		t.Errorf("%d bytes are due after bytes left", f.Due)
	}
	if f.Owe(4000); f.Patient() {
		t.Error("patient with two segments waiting")
	}
	b.send(f, ack|psh, 1, 10)
	f.Owe(10)
	if f.Owe(10); f.Patient() {
		t.Error("patient although two segments came in a row")
	}
}

func TestOffloadHeaders(t *testing.T) {
	b := newBench(t)
	for _, tc := range []struct {
		name    string
		v6      bool
		payload int
		gso     bool
		want    tun.Header
	}{
		{"complete", false, 0, false, tun.Header{}},
		{"checksum only", false, 1000, true, tun.Header{Flags: tun.NeedsChecksum, ChecksumStart: 20, ChecksumOffset: 16}},
		{"cut", false, 30_000, true, tun.Header{Flags: tun.NeedsChecksum, GSOType: tun.GSOTCPv4, HeaderLen: 40, GSOSize: 1400, ChecksumStart: 20, ChecksumOffset: 16}},
		{"cut v6", true, 30_000, true, tun.Header{Flags: tun.NeedsChecksum, GSOType: tun.GSOTCPv6, HeaderLen: 60, GSOSize: 1400, ChecksumStart: 40, ChecksumOffset: 16}},
	} {
		net := 20
		if tc.v6 {
			net = 40
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: 20 + net, Payload: buffer.MakeWithData(make([]byte, tc.payload))})
		pkt.TransportHeader().Push(20)
		pkt.NetworkHeader().Push(net)
		if tc.gso {
			pkt.GSOOptions = stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, CsumOffset: 16, MSS: 1400, L3HdrLen: uint16(net)}
			if tc.v6 {
				pkt.GSOOptions.Type = stack.GSOTCPv6
			}
		}
		_ = b.l.WritePacket(pkt)
		pkt.DecRef()
		b.l.Flush()
		if got := b.headers[len(b.headers)-1]; got != tc.want || b.sizes[len(b.sizes)-1] != 20+net+tc.payload {
			t.Errorf("%s: %+v, %d bytes", tc.name, got, b.sizes[len(b.sizes)-1])
		}
	}
}

// TestTake: what is read comes out whole, whatever tier its size falls into.
func TestTake(t *testing.T) {
	b := newBench(t)
	for _, n := range []int{1, 40, 512, 1500, 2047, 2048, 2049, 9000, 16 << 10, 16<<10 + 1, 65535} {
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(i * 11)
		}
		for range 2 { // the second time with a new tail
			b.packet = p
			if err := b.l.Read(); err != nil {
				t.Fatal(err)
			}
			if got := b.l.Copy(); !slices.Equal(got, p) {
				t.Errorf("%d bytes: Copy is another", n)
			}
			pkt := b.l.Take(n)
			if got := slices.Concat(pkt.AsSlices()...); !slices.Equal(got, p) {
				t.Errorf("%d bytes: Take is another", n)
			}
			pkt.DecRef()
		}
	}
	if err := b.l.Read(); !errors.Is(err, tun.ErrEmpty) {
		t.Errorf("read: %v", err)
	}
}

func TestWriteErrorsAreCounted(t *testing.T) {
	b := newBench(t)
	b.err = tun.ErrFull
	b.send(nil, ack, 1, 0)
	b.l.Flush()
	if n := b.l.Counters.WriteErrors.Load(); n != 1 || b.l.Gone() != nil {
		t.Errorf("%d errors, gone: %v", n, b.l.Gone())
	}
	b.err = tun.ErrGone
	b.send(nil, ack, 1, 0)
	b.l.Flush()
	if !errors.Is(b.l.Gone(), tun.ErrGone) {
		t.Errorf("gone: %v", b.l.Gone())
	}
}

// A watcher sees what is read and written, and nobody else pays for it.
func TestWatch(t *testing.T) {
	b := newBench(t)
	var seen []string
	w := link.Watcher(func(sent bool, parts [][]byte, size int) {
		all := slices.Concat(parts...)
		if len(all) != size {
			t.Errorf("%d bytes of %d", len(all), size)
		}
		seen = append(seen, string(all[:2])+map[bool]string{true: " out", false: " in"}[sent])
	})
	big := append([]byte("cd"), make([]byte, 9000)...)
	turn := func(p []byte) {
		b.packet = p
		if err := b.l.Read(); err != nil {
			t.Fatal(err)
		}
		if err := b.l.Forward(b.l); err != nil {
			t.Fatal(err)
		}
	}
	turn([]byte("ab"))
	b.l.Watch.Store(&w)
	turn([]byte("ab"))
	turn(big)
	b.l.Watch.Store(nil)
	turn([]byte("ef"))
	if want := []string{"ab in", "ab out", "cd in", "cd out"}; !slices.Equal(seen, want) {
		t.Errorf("%q", seen)
	}
	small := []byte("gh")
	if n := testing.AllocsPerRun(100, func() { b.sizes, b.headers = b.sizes[:0], b.headers[:0]; turn(small) }); n > 2 { // the test's own device concatenates, and Forward has parts
		t.Errorf("%v allocations for a packet that nobody watches", n)
	}
}
