package dnsserver

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/tunmesh/tunmesh/control/catalog"
)

// names is a small cluster.
type names struct{}

func (names) Lookup(name string) catalog.Names {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	a := func(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
	switch name {
	case "web.shop.svc.cluster.local":
		return catalog.Names{Ours: true, Exists: true, Addrs: append(a("10.96.0.9"), a("fd00::9")...)}
	case "alias.shop.svc.cluster.local":
		return catalog.Names{Ours: true, Exists: true, CNAME: "web.shop.svc.cluster.local"}
	case "_http._tcp.web.shop.svc.cluster.local":
		return catalog.Names{Ours: true, Exists: true, SRV: []catalog.SRV{{Target: "web.shop.svc.cluster.local", Port: 80, Addrs: a("10.96.0.9")}}}
	case "many.shop.svc.cluster.local":
		n := catalog.Names{Ours: true, Exists: true}
		for i := range 200 {
			n.Addrs = append(n.Addrs, netip.AddrFrom4([4]byte{10, 244, byte(i / 200), byte(i)}))
		}
		return n
	case "none.shop.svc.cluster.local":
		return catalog.Names{Ours: true}
	}
	return catalog.Names{}
}

func (names) LookupAddr(ip netip.Addr) []string {
	if ip == netip.MustParseAddr("10.96.0.9") || ip == netip.MustParseAddr("fd00::9") {
		return []string{"web.shop.svc.cluster.local"}
	}
	return nil
}

func TestAnswers(t *testing.T) {
	s := &Server{Names: names{}, Log: slog.New(slog.DiscardHandler)}
	for _, c := range []struct {
		name  string
		kind  uint16
		rcode int
		want  string // the answers' data
	}{
		{"web.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, "10.96.0.9"},
		{"WEB.Shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, "10.96.0.9"},
		{"web.shop.svc.cluster.local.", dns.TypeAAAA, dns.RcodeSuccess, "fd00::9"},
		{"web.shop.svc.cluster.local.", dns.TypeTXT, dns.RcodeSuccess, ""},
		{"alias.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, "web.shop.svc.cluster.local. 10.96.0.9"},
		{"_http._tcp.web.shop.svc.cluster.local.", dns.TypeSRV, dns.RcodeSuccess, "0 100 80 web.shop.svc.cluster.local."},
		{"none.shop.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, ""},
		{"example.com.", dns.TypeA, dns.RcodeNameError, ""},
		{"9.0.96.10.in-addr.arpa.", dns.TypePTR, dns.RcodeSuccess, "web.shop.svc.cluster.local."},
		{"9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dns.TypePTR, dns.RcodeSuccess, "web.shop.svc.cluster.local."},
		{"1.1.1.1.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError, ""},
	} {
		q := new(dns.Msg).SetQuestion(c.name, c.kind)
		r := s.answer(q)
		var got []string
		for _, rr := range r.Answer {
			got = append(got, strings.TrimPrefix(rr.String(), rr.Header().String()))
		}
		if r.Rcode != c.rcode || strings.Join(got, " ") != c.want {
			t.Errorf("%s %s: %s %q, want %s %q", c.name, dns.TypeToString[c.kind], dns.RcodeToString[r.Rcode], got, dns.RcodeToString[c.rcode], c.want)
		}
		if _, err := r.Pack(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestServe(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	addr := fmt.Sprintf("127.0.0.1:%d", 20000+time.Now().UnixNano()%20000)
	s := &Server{Addr: addr, Names: names{}, Log: slog.New(slog.DiscardHandler)}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Run(ctx, ready) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	q := new(dns.Msg).SetQuestion("many.shop.svc.cluster.local.", dns.TypeA)
	for network, full := range map[string]bool{"udp": false, "tcp": true} {
		c := &dns.Client{Net: network, Timeout: 5 * time.Second}
		r, _, err := c.ExchangeContext(ctx, q, addr)
		if err != nil {
			t.Fatalf("%s: %v", network, err)
		}
		if r.Truncated == full || full && len(r.Answer) != 200 || len(r.Answer) == 0 {
			t.Errorf("%s: truncated %v with %d answers", network, r.Truncated, len(r.Answer))
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func FuzzReverse(f *testing.F) {
	f.Add("9.0.96.10.in-addr.arpa.")
	f.Add(strings.Repeat("0.", 32) + "ip6.arpa")
	f.Add("....in-addr.arpa")
	f.Fuzz(func(t *testing.T, name string) {
		a, ok := reverse(name)
		if !ok {
			return
		}
		back, err := dns.ReverseAddr(a.String())
		if err != nil {
			t.Fatal(err)
		}
		if again, ok := reverse(back); !ok || again != a {
			t.Errorf("%q is %s, whose name %q is %s", name, a, back, again)
		}
	})
}
