package tunproxy_test

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/netstack/memlink"
	"github.com/tunmesh/tunmesh/netstack/tun"
	"github.com/tunmesh/tunmesh/test/siege/attack"
)

// shower puts packets into a link, at attack.PacketRate, from a thread that gives way.
func shower(to *memlink.End, next func(i int) []byte) (end func()) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		giveWay()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; {
			for range attack.PacketRate {
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
	h.send(s, attack.SYN, nil)
	h.seq++
	eventually(s.T, "the handmade connection is answered", func() bool {
		var hdr tun.Header
		var b [2048]byte
		n, err := h.end.Read(&hdr, b[:], nil)
		if err != nil || n < 40 || binary.BigEndian.Uint16(b[22:]) != port || b[33]&attack.SYN == 0 {
			return false
		}
		h.ack = binary.BigEndian.Uint32(b[24:]) + 1
		return true
	})
	h.send(s, attack.ACK, nil)
	return h
}

func (h *handmade) segment(flags byte, at uint32, payload []byte) []byte {
	return attack.Segment(h.src, h.dst, flags, h.seq+at, h.ack, payload)
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
	to := attack.Target{Open: netipAddrPort(flooded), Closed: netipAddrPort(besiegedIP + ":99"), Nobody: netipAddrPort("10.77.0.1:80")}
	body := []byte("POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 100000000\r\n\r\n")
	n := 0 // of all attacks: what was asked for stays a while
	var attacks []onslaught
	for _, f := range attack.Packets() {
		o := onslaught{name: f.Name, metric: f.Metric, labels: f.Labels, attack: func(s *siege) func() {
			end := s.b.wireEnd
			if f.FromApp {
				end = s.b.appEnd
			}
			return shower(end, func(int) []byte {
				n++
				return f.Next(n, to)
			})
		}}
		if f.Name == "SYNs from the network" {
			o.line = 128 * mib // the app's kernel's, too
		}
		attacks = append(attacks, o)
	}
	attacks = append(attacks, []onslaught{
		{name: "RSTs that guess at somebody's connection", metric: "netstack_tcp_resets_received_total", least: 1000, attack: func(s *siege) func() {
			src := s.asker.conn.Local()
			return shower(s.b.wireEnd, func(i int) []byte {
				return attack.Segment(src, netipAddrPort(smallWeb), attack.RST, uint32(i)*2654435761, 0, nil)
			})
		}},
		{name: "segments of one byte", metric: "tcp_read_bytes_total", least: 1000, labels: []string{`direction="inbound"`, `peer="src"`, `target_port="80"`}, attack: func(s *siege) func() {
			n++
			h := s.handmade(uint16(2000 + n))
			h.send(s, attack.ACK|attack.PSH, body)
			end := shower(s.b.wireEnd, func(i int) []byte {
				if i%attack.PacketRate == 0 {
					h.drain()
				}
				return h.segment(attack.ACK|attack.PSH, uint32(i), []byte("x"))
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
				if i%attack.PacketRate == 0 {
					hs[0].drain()
				}
				return hs[i%8].segment(attack.ACK|attack.PSH, uint32(1+i/8%30000*2), []byte("x"))
			})
			return func() { end(); s.rest(hs...) }
		}},
	}...)
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
