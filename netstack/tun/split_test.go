package tun

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/nettest"
)

// tcpPacket makes a TCP packet with n payload bytes and the checksums that a
// sender with offload leaves: none that count.
func tcpPacket(v6 bool, n int, flags byte) ([]byte, int) {
	l4 := 20
	if v6 {
		l4 = 40
	}
	b := make([]byte, l4+32+n)
	if v6 {
		b[0], b[6] = 0x60, 6
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		for i := 8; i < 40; i++ {
			b[i] = byte(i)
		}
	} else {
		b[0], b[9] = 0x45, 6
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		binary.BigEndian.PutUint16(b[4:], 0xfffe)
		copy(b[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	}
	binary.BigEndian.PutUint32(b[l4+4:], 0xfffffff0)
	b[l4+12], b[l4+13] = 8<<4, flags
	for i := l4 + 32; i < len(b); i++ {
		b[i] = byte(i * 3)
	}
	return b, l4
}

func TestSplit(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, n := range []int{1, 999, 1000, 1001, 2000, 12345} {
			const fin, psh, ack, cwr = 1, 8, 0x10, 0x80
			b, l4 := tcpPacket(v6, n, fin|psh|ack|cwr)
			h := &Header{GSOType: GSOTCPv4, GSOSize: 1000, ChecksumStart: uint16(l4)}
			if v6 {
				h.GSOType = GSOTCPv6
			}
			var payload []byte
			count := 0
			if err := Split(h, b, func(s []byte) {
				if !ValidTCP(s, nil, l4) {
					t.Errorf("segment %d: checksum", count)
				}
				if v6 && int(binary.BigEndian.Uint16(s[4:])) != len(s)-40 || !v6 && (int(binary.BigEndian.Uint16(s[2:])) != len(s) || sum(s[:20], 0) != 0xffff) {
					t.Errorf("segment %d: header", count)
				}
				if !v6 && binary.BigEndian.Uint16(s[4:]) != uint16(0xfffe+count) {
					t.Errorf("segment %d: identification", count)
				}
				if got := binary.BigEndian.Uint32(s[l4+4:]); got != 0xfffffff0+uint32(len(payload)) {
					t.Errorf("segment %d: sequence number %#x", count, got)
				}
				last := len(payload)+len(s)-l4-32 == n
				want := byte(ack)
				if last {
					want |= fin | psh
				}
				if count == 0 {
					want |= cwr
				}
				if s[l4+13] != want {
					t.Errorf("segment %d of %d bytes: flags %#x, want %#x", count, n, s[l4+13], want)
				}
				payload = append(payload, s[l4+32:]...)
				count++
			}); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(payload, b[l4+32:]) || count != (n+999)/1000 {
				t.Errorf("%d bytes became %d in %d segments", n, len(payload), count)
			}
		}
	}
}

func TestValidTCPInTwoParts(t *testing.T) {
	b, l4 := tcpPacket(false, 501, 0x10)
	var whole []byte
	if err := Split(&Header{GSOType: GSOTCPv4, GSOSize: 1000}, b, func(s []byte) { whole = bytes.Clone(s) }); err != nil {
		t.Fatal(err)
	}
	for cut := l4 + 20; cut <= len(whole); cut++ {
		if !ValidTCP(whole[:cut], whole[cut:], l4) {
			t.Fatalf("cut at %d: the checksum is said to be wrong", cut)
		}
	}
	whole[300] ^= 4
	for _, cut := range []int{60, 299, 300, 301, len(whole)} {
		if ValidTCP(whole[:cut], whole[cut:], l4) {
			t.Errorf("cut at %d: a flipped bit is not noticed", cut)
		}
	}
}

func FuzzSplit(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		b, l4 := tcpPacket(v6, 3000, 0x18)
		f.Add(b, uint8(GSOTCPv4), uint16(1000), uint16(l4))
		f.Add(b, uint8(GSOTCPv6), uint16(1), uint16(l4))
	}
	f.Fuzz(func(t *testing.T, b []byte, typ uint8, size, start uint16) {
		if len(b) > MaxPacket {
			return
		}
		n := 0
		err := Split(&Header{GSOType: typ, GSOSize: size, ChecksumStart: start}, b, func(s []byte) {
			n += len(s)
			if len(s) > MaxPacket {
				t.Fatalf("a segment of %d bytes", len(s))
			}
		})
		if err != nil && (!errors.Is(err, ErrNotSplit) || n > 0) {
			t.Fatalf("%v after %d bytes", err, n)
		}
	})
}

func TestHeaderRoundTrip(t *testing.T) {
	in := Header{NeedsChecksum, GSOTCPv6, 72, 1440, 40, 16}
	var b [HeaderLen]byte
	in.Put(&b)
	var out Header
	if out.Get(&b); out != in {
		t.Errorf("%+v became %+v", in, out)
	}
	if !in.Verified() || (&Header{}).Verified() || !(&Header{Flags: DataValid}).Verified() {
		t.Error("what counts as verified")
	}
}

// TestQueueThatMustSplit: where a kernel refuses to cut, the queue does, and the
// kernel takes what comes out: it answers each segment with a reset.
func TestQueueThatMustSplit(t *testing.T) {
	s := nettest.New(t, "tunsplit")
	s.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
	q, err := Open(s.MakeTUN("t0", 1500, 1)[0])
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	s.Addr("t0", "10.0.0.2/24")
	b, l4 := tcpPacket(false, 2500, 0x18)
	b[8] = 64
	h := &Header{Flags: NeedsChecksum, GSOType: GSOTCPv4, HeaderLen: 52, GSOSize: 1000, ChecksumStart: uint16(l4), ChecksumOffset: 16}
	q.split = true
	if err := q.Write(h, [][]byte{b[:100], b[100:]}); err != nil {
		t.Fatal(err)
	}
	head, tail := make([]byte, 2048), make([]byte, 64)
	resets := 0
	for end := time.Now().Add(2 * time.Second); resets < 3 && time.Now().Before(end); {
		var h Header
		n, err := q.Read(&h, head, tail)
		if errors.Is(err, ErrEmpty) {
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if n >= 40 && head[9] == 6 && head[20+13]&4 != 0 {
			resets++
		}
	}
	if resets != 3 {
		t.Errorf("%d segments were answered, want 3", resets)
	}
	if err := q.Write(&Header{GSOType: GSOTCPv4}, [][]byte{b}); !errors.Is(err, ErrNotSplit) {
		t.Errorf("a size of zero: %v", err)
	}
}
