// Package dnsserver answers DNS for a local mesh, with what the catalog says of
// its names (the Kubernetes DNS specification). It owns the protocol; it knows
// no name by itself, and asks no other server: what is not the cluster's does
// not exist (NXDOMAIN).
package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/tunmesh/tunmesh/control/catalog"
)

// ttl of answers, in seconds: as CoreDNS's kubernetes plugin.
const ttl = 5

// Names is the part of the catalog that is asked.
type Names interface {
	Lookup(name string) catalog.Names
	LookupAddr(ip netip.Addr) []string
}

// Server answers at one address, UDP and TCP.
type Server struct {
	Addr  string // ":53"
	Names Names
	Log   *slog.Logger
}

// Run serves until ctx ends. ready is closed when it does.
func (s *Server) Run(ctx context.Context, ready chan<- struct{}) error {
	up := make(chan struct{}, 2)
	servers := []*dns.Server{
		{Addr: s.Addr, Net: "udp", Handler: s, UDPSize: 4096},
		{Addr: s.Addr, Net: "tcp", Handler: s, MaxTCPQueries: 128, IdleTimeout: func() time.Duration { return 8 * time.Second }},
	}
	errs := make(chan error, len(servers))
	for _, srv := range servers {
		srv.NotifyStartedFunc = func() { up <- struct{}{} }
		go func() { errs <- srv.ListenAndServe() }()
	}
	n := 0
	for {
		select {
		case <-up:
			if n++; n == len(servers) {
				close(ready)
			}
		case err := <-errs:
			return fmt.Errorf("serve DNS at %s: %w", s.Addr, err)
		case <-ctx.Done():
			var all []error
			for _, srv := range servers {
				all = append(all, srv.Shutdown())
			}
			return errors.Join(all...)
		}
	}
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	r := s.answer(q)
	if opt := q.IsEdns0(); opt != nil {
		r.SetEdns0(4096, false)
	}
	size := dns.MinMsgSize
	if w.RemoteAddr().Network() == "tcp" {
		size = dns.MaxMsgSize
	} else if opt := q.IsEdns0(); opt != nil {
		size = int(max(opt.UDPSize(), dns.MinMsgSize))
	}
	r.Truncate(size)
	if err := w.WriteMsg(r); err != nil {
		s.Log.Debug("answer a DNS query", "error", err)
	}
}

// answer is pure but for the names.
func (s *Server) answer(q *dns.Msg) *dns.Msg {
	r := new(dns.Msg)
	if q.Opcode != dns.OpcodeQuery || len(q.Question) != 1 {
		return r.SetRcode(q, dns.RcodeNotImplemented)
	}
	r.SetReply(q)
	r.Authoritative, r.RecursionAvailable = true, true
	ask := q.Question[0]
	if ask.Qclass != dns.ClassINET && ask.Qclass != dns.ClassANY {
		r.Rcode = dns.RcodeRefused
		return r
	}
	if ip, ok := reverse(ask.Name); ok {
		s.pointers(r, ask, ip)
		return r
	}
	n := s.Names.Lookup(ask.Name)
	switch {
	case !n.Ours || !n.Exists:
		r.Rcode = dns.RcodeNameError
	case n.CNAME != "":
		r.Answer = append(r.Answer, &dns.CNAME{Hdr: header(ask.Name, dns.TypeCNAME), Target: dns.Fqdn(n.CNAME)})
		// A name of the cluster is followed; others are not ours to answer.
		if t := s.Names.Lookup(n.CNAME); t.Exists {
			r.Answer = append(r.Answer, addresses(dns.Fqdn(n.CNAME), ask.Qtype, t.Addrs)...)
		}
	case ask.Qtype == dns.TypeSRV:
		for _, v := range n.SRV {
			target := dns.Fqdn(v.Target)
			r.Answer = append(r.Answer, &dns.SRV{Hdr: header(ask.Name, dns.TypeSRV), Priority: 0, Weight: 100, Port: v.Port, Target: target})
			r.Extra = append(r.Extra, addresses(target, dns.TypeA, v.Addrs)...)
			r.Extra = append(r.Extra, addresses(target, dns.TypeAAAA, v.Addrs)...)
		}
	default:
		r.Answer = addresses(ask.Name, ask.Qtype, n.Addrs)
	}
	if len(r.Answer) == 0 {
		r.Ns = []dns.RR{soa()}
	}
	return r
}

func (s *Server) pointers(r *dns.Msg, ask dns.Question, ip netip.Addr) {
	names := s.Names.LookupAddr(ip)
	if len(names) == 0 {
		r.Rcode = dns.RcodeNameError
		r.Ns = []dns.RR{soa()}
		return
	}
	if ask.Qtype != dns.TypePTR && ask.Qtype != dns.TypeANY {
		return
	}
	for _, n := range names {
		r.Answer = append(r.Answer, &dns.PTR{Hdr: header(ask.Name, dns.TypePTR), Ptr: dns.Fqdn(n)})
	}
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

func addresses(name string, kind uint16, addrs []netip.Addr) []dns.RR {
	var out []dns.RR
	for _, a := range addrs {
		switch {
		case a.Is4() && (kind == dns.TypeA || kind == dns.TypeANY):
			out = append(out, &dns.A{Hdr: header(name, dns.TypeA), A: a.AsSlice()})
		case a.Is6() && (kind == dns.TypeAAAA || kind == dns.TypeANY):
			out = append(out, &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: a.AsSlice()})
		}
	}
	return out
}

// soa lets resolvers forget quickly that a name did not exist.
func soa() dns.RR {
	return &dns.SOA{Hdr: header("cluster.local.", dns.TypeSOA), Ns: "ns.dns.cluster.local.", Mbox: "hostmaster.cluster.local.",
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl}
}

// reverse reads the address out of a name under in-addr.arpa or ip6.arpa.
func reverse(name string) (netip.Addr, bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		p := strings.Split(rest, ".")
		if len(p) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(p[3] + "." + p[2] + "." + p[1] + "." + p[0])
		return a, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	p := strings.Split(rest, ".")
	if !ok || len(p) != 32 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := range p {
		b.WriteString(p[len(p)-1-i])
		if i%4 == 3 && i < 31 {
			b.WriteByte(':')
		}
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil
}
