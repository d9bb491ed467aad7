package tunproxy_test

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/netstack/memlink"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

const tcpSYN, tcpRST, tcpPSH, tcpACK = 2, 4, 8, 16

// segment makes a TCP segment; its checksum is left to the virtio header.
func segment(src, dst netip.AddrPort, flags byte, seq, ack uint32, payload []byte) []byte {
	b := make([]byte, 40, 40+len(payload))
	b[0], b[8], b[9] = 0x45, 64, 6
	s, d := src.Addr().As4(), dst.Addr().As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	th := b[20:]
	binary.BigEndian.PutUint16(th, src.Port())
	binary.BigEndian.PutUint16(th[2:], dst.Port())
	binary.BigEndian.PutUint32(th[4:], seq)
	binary.BigEndian.PutUint32(th[8:], ack)
	th[12], th[13] = 5<<4, flags
	binary.BigEndian.PutUint16(th[14:], 60000)
	return finish(append(b, payload...))
}

func datagram(src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, 28, 28+len(payload))
	b[0], b[8], b[9] = 0x45, 64, 17
	s, d := src.Addr().As4(), dst.Addr().As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	binary.BigEndian.PutUint16(b[20:], src.Port())
	binary.BigEndian.PutUint16(b[22:], dst.Port())
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(payload)))
	return finish(append(b, payload...))
}

// finish puts the length and the checksum into an IPv4 header.
func finish(b []byte) []byte {
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

// packetRate is how many packets a flood of packets has each tick, a hundred
// ticks a second.
const packetRate = 100

// shower puts packets into a link, at packetRate, from a thread that gives way.
func shower(to *memlink.End, next func(i int) []byte) (end func()) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		giveWay()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; {
			for range packetRate {
				if p := next(i); p != nil {
					_ = to.Inject(tun.Header{Flags: tun.NeedsChecksum}, p)
				}
				i++
			}
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	})
	return func() {
		close(stop)
		wg.Wait()
	}
}

// handmade is a TCP connection of an attacker without a kernel.
type handmade struct {
	end      *memlink.End
	src, dst netip.AddrPort
	seq, ack uint32
}

// handmade opens one to the besieged sidecar.
func (s *siege) handmade(port uint16) *handmade {
	s.Helper()
	src := netip.AddrPortFrom(netip.MustParseAddr("10.0.0.7"), port)
	if s.hands == nil {
		s.hands = s.w.attach(src.Addr())
	}
	h := &handmade{end: s.hands, src: src, dst: netipAddrPort(flooded), seq: 1000}
	h.send(s, tcpSYN, nil)
	h.seq++
	eventually(s.T, "the handmade connection is answered", func() bool {
		var hdr tun.Header
		var b [2048]byte
		n, err := h.end.Read(&hdr, b[:], nil)
		if err != nil || n < 40 || binary.BigEndian.Uint16(b[22:]) != port || b[33]&tcpSYN == 0 {
			return false
		}
		h.ack = binary.BigEndian.Uint32(b[24:]) + 1
		return true
	})
	h.send(s, tcpACK, nil)
	return h
}

func (h *handmade) segment(flags byte, at uint32, payload []byte) []byte {
	return segment(h.src, h.dst, flags, h.seq+at, h.ack, payload)
}

func (h *handmade) send(s *siege, flags byte, payload []byte) {
	_ = s.b.wireEnd.Inject(tun.Header{Flags: tun.NeedsChecksum}, h.segment(flags, 0, payload))
	h.seq += uint32(len(payload))
}

// drain throws away what the sidecar says.
func (h *handmade) drain() {
	var hdr tun.Header
	var b, rest [2048]byte
	for {
		if _, err := h.end.Read(&hdr, b[:], rest[:]); err != nil {
			return
		}
	}
}

// TestPacketFloods: packets in masses, from the network and from the app, that
// begin what nobody ends, or belong to nothing: each kind has its bound, is
// counted, and nobody else notices. 10,000 packets a second.
func TestPacketFloods(t *testing.T) {
	wire, app := []string{`side="wire"`}, []string{`side="app"`}
	drops := func(side []string, why string) []string { return append([]string{`reason="` + why + `"`}, side...) }
	to := netipAddrPort(flooded)
	spoofed := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), uint16(1024+i>>16))
	}
	inward := func(next func(i int) []byte) func(*siege) func() {
		return func(s *siege) func() { return shower(s.b.wireEnd, next) }
	}
	outward := func(next func(i int) []byte) func(*siege) func() {
		return func(s *siege) func() { return shower(s.b.appEnd, next) }
	}
	pod := netip.MustParseAddr(besiegedIP)
	none := netipAddrPort("10.77.0.1:80") // nobody answers there
	body := []byte("POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 100000000\r\n\r\n")
	n := 0 // of all attacks: what was asked for stays a while
	attacks := []onslaught{
		{name: "SYNs from the network", line: 128 * mib, metric: "netstack_drops_total", labels: drops(wire, "pending_limit"), attack: inward(func(int) []byte {
			n++
			return segment(spoofed(n), to, tcpSYN, 1, 0, nil)
		})},
		{name: "SYNs from the app", metric: "netstack_drops_total", labels: drops(app, "pending_limit"), attack: outward(func(int) []byte {
			n++
			return segment(netip.AddrPortFrom(pod, uint16(1024+n%60000)), none, tcpSYN, 1, 0, nil)
		})},
		{name: "SYNs to a port where nobody listens", metric: "netstack_refused_total", labels: wire, attack: inward(func(int) []byte {
			n++
			return segment(spoofed(n), netipAddrPort(besiegedIP+":99"), tcpSYN, 1, 0, nil)
		})},
		{name: "ACKs of no connection", metric: "netstack_drops_total", labels: drops(wire, "reset_limit"), attack: inward(func(i int) []byte {
			return segment(spoofed(i), to, tcpACK, 1, 1, nil)
		})},
		{name: "RSTs of no connection", metric: "netstack_drops_total", labels: drops(wire, "reset_ignored"), attack: inward(func(i int) []byte {
			return segment(spoofed(i), to, tcpRST, 1, 0, nil)
		})},
		{name: "RSTs that guess at somebody's connection", metric: "netstack_tcp_resets_received_total", least: 1000, attack: func(s *siege) func() {
			src := s.asker.conn.Local()
			return shower(s.b.wireEnd, func(i int) []byte {
				return segment(src, netipAddrPort(smallWeb), tcpRST, uint32(i)*2654435761, 0, nil)
			})
		}},
		{name: "UDP through the sidecar, from the network", metric: "netstack_forwarded_udp_total", labels: wire, attack: inward(func(i int) []byte {
			return datagram(spoofed(i), netipAddrPort(besiegedIP+":53"), make([]byte, 60))
		})},
		{name: "DNS questions from the app", metric: "netstack_forwarded_udp_total", labels: app, attack: outward(func(i int) []byte {
			return datagram(netip.AddrPortFrom(pod, uint16(1024+i%60000)), netipAddrPort("10.96.0.10:53"), make([]byte, 40))
		})},
		{name: "packets that are none", metric: "netstack_drops_total", labels: drops(wire, "malformed"), attack: inward(func(i int) []byte {
			p := segment(spoofed(i), to, tcpACK, 1, 1, nil)
			p[32] = 0xf0 // a header longer than the packet
			return p
		})},
		{name: "segments of one byte", metric: "tcp_read_bytes_total", least: 1000, labels: []string{`direction="inbound"`, `peer="src"`, `target_port="80"`}, attack: func(s *siege) func() {
			n++
			h := s.handmade(uint16(2000 + n))
			h.send(s, tcpACK|tcpPSH, body)
			end := shower(s.b.wireEnd, func(i int) []byte {
				if i%packetRate == 0 {
					h.drain()
				}
				return h.segment(tcpACK|tcpPSH, uint32(i), []byte("x"))
			})
			return func() { end(); s.rest(h) }
		}},
		{name: "segments out of order", metric: "held_bytes", labels: []string{`layer="tcp"`}, attack: func(s *siege) func() {
			var hs []*handmade
			for range 8 {
				n++
				hs = append(hs, s.handmade(uint16(2000+n)))
			}
			end := shower(s.b.wireEnd, func(i int) []byte {
				if i%packetRate == 0 {
					hs[0].drain()
				}
				return hs[i%8].segment(tcpACK|tcpPSH, uint32(1+i/8%30000*2), []byte("x"))
			})
			return func() { end(); s.rest(hs...) }
		}},
	}
	besieged(t, attacks)
}

// rest ends handmade connections, from the app: where the sidecar stands in
// them is not known.
func (s *siege) rest(hs ...*handmade) {
	s.hangUp()
	for _, h := range hs {
		h.drain()
	}
}
