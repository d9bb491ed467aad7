package catalog_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/control/catalog"
)

// showNames prints an answer in one line.
func showNames(n catalog.Names) string {
	switch {
	case !n.Ours:
		return "not ours"
	case !n.Exists:
		return "no such name"
	}
	var parts []string
	if n.CNAME != "" {
		parts = append(parts, "CNAME "+n.CNAME)
	}
	for _, a := range n.Addrs {
		parts = append(parts, a.String())
	}
	for _, s := range n.SRV {
		parts = append(parts, fmt.Sprintf("SRV %s:%d %v", s.Target, s.Port, s.Addrs))
	}
	if parts == nil {
		return "empty"
	}
	return strings.Join(parts, " ")
}

func TestLookup(t *testing.T) {
	stateful := func(p *catalog.Pod) { p.Hostname, p.Subdomain = p.Name, "db" }
	db := func(s *catalog.Service) {
		s.Headless = true
		s.Ports[0] = catalog.ServicePort{Name: "sql", Port: 1, Transport: "TCP", TargetPort: 5432}
	}
	c := newCatalog(t,
		catalog.Put(&catalog.Namespace{Name: "default"}), catalog.Put(&catalog.Namespace{Name: "empty"}),
		pod("db-0", "10.1.0.1,fd00:1::1", stateful), pod("db-1", "10.1.0.2", stateful), pod("db-2", "10.1.0.3", stateful, notReady), pod("bare", "10.1.0.9"),
		service("web", "10.96.0.1,fd00:1::9"), service("db", "", db),
		service("out", "", func(s *catalog.Service) { s.ExternalName = "example.com." }),
	)
	for name, want := range map[string]string{
		"web.default.svc.cluster.local":            "10.96.0.1 fd00:1::9",
		"WEB.Default.svc.cluster.local.":           "10.96.0.1 fd00:1::9",
		"db.default.svc.cluster.local":             "10.1.0.1 10.1.0.2 10.1.0.9 fd00:1::1",
		"db-0.db.default.svc.cluster.local":        "10.1.0.1 fd00:1::1",
		"db-2.db.default.svc.cluster.local":        "no such name", // not ready
		"10-1-0-9.db.default.svc.cluster.local":    "10.1.0.9",     // a pod without a hostname
		"db-0.web.default.svc.cluster.local":       "no such name", // not headless
		"_http._tcp.web.default.svc.cluster.local": "SRV web.default.svc.cluster.local:80 [10.96.0.1 fd00:1::9]",
		"_http._udp.web.default.svc.cluster.local": "no such name",
		"_none._tcp.web.default.svc.cluster.local": "no such name",
		"_sql._tcp.db.default.svc.cluster.local":   "SRV 10-1-0-9.db.default.svc.cluster.local:5432 [10.1.0.9] SRV db-0.db.default.svc.cluster.local:5432 [10.1.0.1 fd00:1::1] SRV db-1.db.default.svc.cluster.local:5432 [10.1.0.2]",
		"out.default.svc.cluster.local":            "CNAME example.com",
		"10-1-0-2.default.pod.cluster.local":       "10.1.0.2",
		"fd00-1--1.default.pod.cluster.local":      "fd00:1::1",
		"10-1-0-2.empty.pod.cluster.local":         "no such name",
		"none.default.svc.cluster.local":           "no such name",
		"web.none.svc.cluster.local":               "no such name",
		"default.svc.cluster.local":                "empty",
		"empty.svc.cluster.local":                  "empty",
		"none.svc.cluster.local":                   "no such name",
		"svc.cluster.local":                        "empty",
		"cluster.local":                            "empty",
		"x.cluster.local":                          "no such name",
		"a.b.c.d.e.default.svc.cluster.local":      "no such name",
		"example.com":                              "not ours",
		"mycluster.local":                          "not ours",
		"":                                         "not ours",
		"..svc.cluster.local":                      "no such name",
	} {
		if got := showNames(c.Lookup(name)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	for addr, want := range map[string]string{
		"10.96.0.1": "[web.default.svc.cluster.local]",
		"10.1.0.1":  "[db-0.db.default.svc.cluster.local]",
		"fd00:1::1": "[db-0.db.default.svc.cluster.local]",
		"10.1.0.9":  "[10-1-0-9.db.default.svc.cluster.local]",
		"10.1.0.3":  "[]",
		"192.0.2.1": "[]",
	} {
		if got := fmt.Sprint(c.LookupAddr(netip.MustParseAddr(addr))); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
}
