package datagram

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
)

var (
	pod    = netip.MustParseAddrPort("10.0.0.1:40000")
	server = netip.MustParseAddrPort("10.96.0.10:53")
)

type rig struct {
	*Table
	t   *testing.T
	r   *telemetry.Metrics
	now time.Time
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, r: telemetry.New(telemetry.Config{}, "v1"), now: time.Unix(1e9, 0)}
	r.Table = New(r.r.Datagrams, func() time.Time { return r.now })
	return r
}

func (r *rig) has(lines ...string) {
	r.t.Helper()
	page := string(r.r.Registry.Text())
	for _, l := range lines {
		if !strings.Contains(page, "\n"+l+"\n") {
			r.t.Errorf("no %s in\n%s", l, page[strings.Index(page, "# HELP udp"):])
		}
	}
}

func query(t *testing.T, id uint16, name string, kind uint16) *dns.Msg {
	m := new(dns.Msg).SetQuestion(name, kind)
	m.Id = id
	return m
}

func pack(t *testing.T, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNamesAreResolved(t *testing.T) {
	r := newRig(t)
	q := query(t, 7, "Web.Emojivoto.svc.cluster.local.", dns.TypeA)
	r.Seen(aio.App, pod, server, 80, pack(t, q))
	r.Seen(aio.App, pod, server, 80, pack(t, q)) // once more
	a := new(dns.Msg).SetReply(q)
	for i := range 3 {
		a.Answer = append(a.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: []byte{10, 0, 0, byte(i)}})
	}
	b := pack(t, a)
	r.now = r.now.Add(700 * time.Microsecond)
	other := query(t, 7, "evil.", dns.TypeA)
	other.Response = true
	r.Seen(aio.Wire, server, pod, 80, pack(t, other)) // of another question
	r.Seen(aio.Wire, server, pod, 200, b)
	r.Seen(aio.Wire, server, pod, 200, b) // nobody waits any more
	missing := query(t, 8, "missing.", dns.TypeAAAA)
	r.Seen(aio.App, pod, server, 60, pack(t, missing))
	r.Seen(aio.Wire, server, pod, 60, pack(t, new(dns.Msg).SetRcode(missing, dns.RcodeNameError)))
	r.Seen(aio.App, pod, server, 60, pack(t, query(t, 9, "slow.", dns.TypeHTTPS)))
	r.now = r.now.Add(6 * time.Second)
	r.Sweep()
	const web = `{name="web.emojivoto.svc.cluster.local",type="A"`
	r.has(
		`dns_queries_total`+web+`} 2`, `dns_responses_total`+web+`,rcode="NOERROR"} 1`, `dns_answers_total`+web+`} 3`,
		`dns_response_latency_seconds_bucket`+web+`,le="0.0005"} 0`, `dns_response_latency_seconds_bucket`+web+`,le="0.001"} 1`,
		`dns_responses_total{name="missing",type="AAAA",rcode="NXDOMAIN"} 1`, `dns_unanswered_total{name="slow",type="HTTPS"} 1`,
		`udp_open_flows{direction="outbound",target_addr="10.96.0.10:53",target_ip="10.96.0.10",target_port="53"} 0`, // in a while
		`udp_write_packets_total{direction="outbound",target_addr="10.96.0.10:53",target_ip="10.96.0.10",target_port="53"} 4`,
		`udp_read_bytes_total{direction="outbound",target_addr="10.96.0.10:53",target_ip="10.96.0.10",target_port="53"} 540`,
	)
}

// TestFlows: who sent first opened the flow; one in which nobody sends is over.
func TestFlows(t *testing.T) {
	r := newRig(t)
	at, client := netip.MustParseAddrPort("[fd00::1]:443"), netip.MustParseAddrPort("[fd00::9]:5000")
	r.Seen(aio.Wire, client, at, 100, nil)
	r.Seen(aio.App, at, client, 1200, nil)
	const labels = `{direction="inbound",target_addr="[fd00::1]:443",target_ip="fd00::1",target_port="443"} `
	r.has("udp_flows_total"+labels+"1", "udp_open_flows"+labels+"1", "udp_read_bytes_total"+labels+"100", "udp_write_bytes_total"+labels+"1200")
	r.now = r.now.Add(2 * time.Minute)
	r.Sweep()
	r.has("udp_open_flows" + labels + "0")
}

// TestBounds: masses of flows, names and questions cost what they may, and are
// counted.
func TestBounds(t *testing.T) {
	r := newRig(t)
	n := 3 * shards * maxFlows
	for i := range n {
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), uint16(1000+i))
		r.Seen(aio.Wire, a, netip.MustParseAddrPort("10.0.0.1:99"), 50, nil)
		r.Seen(aio.App, pod, server, 50, pack(t, query(t, uint16(i), fmt.Sprintf("n%d.example.", i), dns.TypeA)))
	}
	flows, questions := 0, 0
	for i := range r.shards {
		flows += len(r.shards[i].flows)
		questions += len(r.shards[i].questions)
	}
	if flows > shards*maxFlows || questions > maxQuestions {
		t.Errorf("%d flows and %d questions are kept", flows, questions)
	}
	page := r.r.Registry.Text()
	if names := bytes.Count(page, []byte("\ndns_queries_total{")); names > 257 {
		t.Errorf("%d names", names)
	}
	r.has(fmt.Sprintf("dns_unwatched_queries_total %d", n-maxQuestions))
}

func FuzzParse(f *testing.F) {
	m := new(dns.Msg).SetQuestion("a.b.", dns.TypeA)
	b, _ := m.Pack()
	f.Add(b)
	f.Add(append(b[:12:12], 0xc0, 12, 0, 1, 0, 1))
	f.Add(make([]byte, 16))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, ok := parse(b)
		if !ok {
			return
		}
		// What a resolver's library reads is what is read here.
		var theirs dns.Msg
		if err := theirs.Unpack(b); err != nil || len(theirs.Question) != 1 {
			return // cut off behind the question
		}
		q := theirs.Question[0]
		if got.id != theirs.Id || got.response != theirs.Response || got.kind != q.Qtype || int(got.rcode) != theirs.Rcode&15 {
			t.Errorf("%+v, want %v", got, &theirs)
		}
		if plain := strings.TrimSuffix(strings.ToLower(q.Name), "."); !strings.Contains(plain, `\`) && got.name != plain && !(plain == "" && got.name == ".") {
			t.Errorf("%q, want %q", got.name, q.Name)
		}
	})
}

// BenchmarkSeen is what a packet of a flow costs.
func BenchmarkSeen(b *testing.B) {
	t := New(telemetry.New(telemetry.Config{}, "v1").Datagrams, nil)
	peer := netip.MustParseAddrPort("10.0.0.9:443")
	b.ReportAllocs()
	for b.Loop() {
		t.Seen(aio.App, pod, peer, 1200, nil)
	}
}
