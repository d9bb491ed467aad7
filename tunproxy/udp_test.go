package tunproxy_test

import (
	"encoding/binary"
	"testing"

	"github.com/miekg/dns"

	"github.com/tunmesh/tunmesh/netstack/memlink"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

// udp4 is a UDP packet without a checksum, which IPv4 allows.
func udp4(src, dst string, payload []byte) []byte {
	s, d := netipAddrPort(src), netipAddrPort(dst)
	b := make([]byte, 28, 28+len(payload))
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(payload)))
	copy(b[12:], s.Addr().AsSlice())
	copy(b[16:], d.Addr().AsSlice())
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum))
	binary.BigEndian.PutUint16(b[20:], s.Port())
	binary.BigEndian.PutUint16(b[22:], d.Port())
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(payload)))
	return append(b, payload...)
}

// TestNamesInMetrics: a name that the pod resolves passes, and is in its metrics.
func TestNamesInMetrics(t *testing.T) {
	w := newWorld(t)
	a := w.pod("a", "10.0.0.1")
	passed := make(chan struct{}, 1)
	a.wireEnd.SetTap(func(_ tun.Header, p []byte) (memlink.Verdict, error) {
		if p[9] == 17 {
			select {
			case passed <- struct{}{}:
			default:
			}
		}
		return memlink.Lose, nil
	})
	q := new(dns.Msg).SetQuestion("web.emojivoto.", dns.TypeA)
	ask, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := new(dns.Msg).SetRcode(q, dns.RcodeNameError).Pack()
	if err != nil {
		t.Fatal(err)
	}
	_ = a.appEnd.Inject(tun.Header{}, udp4("10.0.0.1:4000", "10.0.0.53:53", ask))
	<-passed
	_ = a.wireEnd.Inject(tun.Header{}, udp4("10.0.0.53:53", "10.0.0.1:4000", answer))
	eventually(t, "the answer is counted", func() bool {
		return a.metric("dns_responses_total", `name="web.emojivoto"`, `rcode="NXDOMAIN"`) == 1
	})
	for name, want := range map[string]float64{"dns_queries_total": 1, "udp_flows_total": 1, "udp_write_packets_total": 1, "udp_read_packets_total": 1} {
		if n := a.metric(name); n != want {
			t.Errorf("%s is %v, want %v", name, n, want)
		}
	}
}
