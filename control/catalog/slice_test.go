package catalog_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/sourcetest"
)

func newSliced(t *testing.T, changes ...catalog.Change) *catalog.Catalog {
	t.Helper()
	c, err := catalog.New(catalog.Config{EndpointSlices: true, Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.96.0.0/16")}})
	if err != nil {
		t.Fatal(err)
	}
	c.Apply(changes...)
	return c
}

// slice makes a slice of Service web, port http at 8080; an endpoint is written
// as address, address=pod, and then by words: "notready", "node:n1", "zone:a",
// "for:a", "fornode:n1".
func slice(name string, endpoints ...string) catalog.Change {
	s := &catalog.EndpointSlice{
		Key: key(name), Service: "web", Is4: true,
		Ports: []catalog.SlicePort{{Name: "http", Port: 8080, Transport: "TCP"}},
	}
	for _, text := range endpoints {
		words := strings.Fields(text)
		addr, pod, _ := strings.Cut(words[0], "=")
		e := catalog.SliceEndpoint{Addr: netip.MustParseAddr(addr), Pod: pod, Ready: !slices.Contains(words, "notready")}
		for _, w := range words[1:] {
			k, v, _ := strings.Cut(w, ":")
			if strings.HasPrefix(k, "for") && e.Hints == nil {
				e.Hints = &catalog.Hints{}
			}
			switch k {
			case "node":
				e.Node = v
			case "zone":
				e.Zone = v
			case "for":
				e.Hints.Zones = append(e.Hints.Zones, v)
			case "fornode":
				e.Hints.Nodes = append(e.Hints.Nodes, v)
			}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return catalog.Put(s)
}

func noSelector(s *catalog.Service) { s.Selector = nil }

func TestSlices(t *testing.T) {
	const web = "ns/default/sa/web DETECT"
	for _, tc := range []struct {
		name    string
		changes []catalog.Change
		want    string // after the first " | "
	}{
		{"as the slice says", []catalog.Change{pod("a", "10.1.0.1"), service("web", "10.96.0.1"), slice("s", "10.1.0.1=a")}, "10.1.0.1:8080 " + web},
		{"a selected pod that no slice lists is none", []catalog.Change{pod("a", "10.1.0.1"), service("web", "10.96.0.1")}, ""},
		{"not ready", []catalog.Change{pod("a", "10.1.0.1"), service("web", "10.96.0.1"), slice("s", "10.1.0.1=a notready")}, ""},
		{"ready by the slice, not by the pod", []catalog.Change{pod("a", "10.1.0.1", notReady), service("web", "10.96.0.1"), slice("s", "10.1.0.1=a")}, "10.1.0.1:8080 " + web},
		{"the pod's end is known sooner", []catalog.Change{pod("a", "10.1.0.1", func(p *catalog.Pod) { p.Terminating = true }), service("web", "10.96.0.1"), slice("s", "10.1.0.1=a")}, ""},
		{"several slices", []catalog.Change{pod("b", "10.1.0.2"), pod("a", "10.1.0.1"), service("web", "10.96.0.1"), slice("s2", "10.1.0.2=b"), slice("s1", "10.1.0.1=a")},
			"10.1.0.1:8080 " + web + " | 10.1.0.2:8080 " + web},
		{"twice, once ready", []catalog.Change{pod("a", "10.1.0.1"), service("web", "10.96.0.1"), slice("s1", "10.1.0.1=a notready"), slice("s2", "10.1.0.1=a")}, "10.1.0.1:8080 " + web},
		{"a pod that is not known yet is never plain", []catalog.Change{service("web", "10.96.0.1"), slice("s", "10.1.0.1=a")}, ""},
		{"a pod whose address is not known yet", []catalog.Change{pod("a", ""), service("web", "10.96.0.1"), slice("s", "10.1.0.1=a")}, ""},
		{"an address that is another pod's now", []catalog.Change{pod("b", "10.1.0.1"), service("web", "10.96.0.1"), slice("s", "10.1.0.1=a")}, ""},
		{"no selector, an address elsewhere", []catalog.Change{service("web", "10.96.0.1", noSelector), slice("s", "192.0.2.1")}, "192.0.2.1:8080 plain DETECT"},
		{"no selector, a pod's address is the pod", []catalog.Change{pod("x/a", "10.1.0.1"), service("web", "10.96.0.1", noSelector), slice("s", "10.1.0.1")}, "10.1.0.1:8080 ns/x/sa/web DETECT"},
		{"no selector, nobody's address", []catalog.Change{service("web", "10.96.0.1", noSelector), slice("s", "10.1.0.9")}, ""},
		{"on the host's network, plain", []catalog.Change{pod("a", "192.0.2.5", func(p *catalog.Pod) { p.HostNetwork = true }), service("web", "10.96.0.1"), slice("s", "192.0.2.5=a")}, "192.0.2.5:8080 plain DETECT"},
		{"a port of another name", []catalog.Change{pod("a", "10.1.0.1"), service("web", "10.96.0.1", func(s *catalog.Service) { s.Ports[0].Name = "other" }), slice("s", "10.1.0.1=a")}, ""},
		{"another namespace's slice", []catalog.Change{pod("a", "10.1.0.1"), service("web", "10.96.0.1"), slice("x/s", "10.1.0.1=a")}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := "SERVICE DETECT default/web:80 (web.default.svc.cluster.local:80)"
			if tc.want != "" {
				want += " | " + tc.want
			}
			if got := sourcetest.Show(newSliced(t, tc.changes...).Resolve(netip.MustParseAddrPort("10.96.0.1:80"))); got != want {
				t.Errorf("is\n%s\nwant\n%s", got, want)
			}
			// The same, whatever comes first.
			backwards := slices.Clone(tc.changes)
			slices.Reverse(backwards)
			c := newSliced(t)
			w := watch(t, c, "10.96.0.1:80")
			for _, ch := range backwards {
				c.Apply(ch)
			}
			if got := sourcetest.Show(w.Load()); got != want {
				t.Errorf("backwards, one by one, it is\n%s\nwant\n%s", got, want)
			}
			for _, ch := range tc.changes {
				c.Apply(catalog.Delete(ch.Ref))
			}
			if got := sourcetest.Show(w.Load()); got != "NONE DETECT" {
				t.Errorf("after all are gone: %s", got)
			}
		})
	}
}

func TestPlaces(t *testing.T) {
	node := func(name, zone string) catalog.Change { return catalog.Put(&catalog.Node{Name: name, Zone: zone}) }
	base := []catalog.Change{
		node("n1", "a"), node("n2", "a"), node("n3", "b"), node("n4", ""),
		pod("p1", "10.1.0.1"), pod("p2", "10.1.0.2"), pod("p3", "10.1.0.3"), service("web", "10.96.0.1"),
	}
	local := service("web", "10.96.0.1", func(s *catalog.Service) { s.Local = true })
	three := func(h1, h2, h3 string) catalog.Change {
		return slice("s", "10.1.0.1=p1 node:n1 "+h1, "10.1.0.2=p2 node:n2 "+h2, "10.1.0.3=p3 node:n3 "+h3)
	}
	for _, tc := range []struct {
		name    string
		changes []catalog.Change
		want    map[string]string // by node: the last digits of the addresses
	}{
		{"no hints", []catalog.Change{three("", "", "")}, map[string]string{"n1": "123", "n3": "123", "": "123"}},
		{"zones", []catalog.Change{three("for:a", "for:a", "for:b")}, map[string]string{"n1": "12", "n2": "12", "n3": "3", "n4": "123", "none": "123", "": "123"}},
		{"nobody is for the zone", []catalog.Change{three("for:a", "for:a", "for:a")}, map[string]string{"n3": "123"}},
		{"one without hints", []catalog.Change{three("for:a", "for:a", "")}, map[string]string{"n1": "123"}},
		{"nodes first", []catalog.Change{three("fornode:n1 for:a", "fornode:n2 for:a", "fornode:n3 for:b")}, map[string]string{"n1": "1", "n3": "3", "n4": "123"}},
		{"nobody is for the node", []catalog.Change{three("fornode:n1 for:a", "fornode:n1 for:a", "fornode:n3 for:b")}, map[string]string{"n2": "12"}},
		{"local", []catalog.Change{three("", "", ""), local}, map[string]string{"n1": "1", "n2": "2", "n4": "", "": ""}},
		{"local before hints", []catalog.Change{three("for:b", "for:b", "for:b"), local}, map[string]string{"n1": "1", "n4": ""}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newSliced(t, base...)
			early := map[string]*catalog.Watch{}
			for node := range tc.want {
				early[node] = c.WatchFrom(netip.MustParseAddrPort("10.96.0.1:80"), node)
				t.Cleanup(early[node].Close)
			}
			c.Apply(tc.changes...)
			for node, want := range tc.want {
				late := c.WatchFrom(netip.MustParseAddrPort("10.96.0.1:80"), node)
				t.Cleanup(late.Close)
				for what, w := range map[string]*catalog.Watch{"watched before": early[node], "watched after": late} {
					got := ""
					for _, e := range w.Load().Endpoints {
						got += e.Addr.Addr().String()[len("10.1.0."):]
					}
					if got != want {
						t.Errorf("node %q, %s: %q, want %q", node, what, got, want)
					}
				}
			}
		})
	}
}

// TestPlacesShare: who sees the same has the same snapshot, so that it is encoded
// once, and a change elsewhere wakes nobody.
func TestPlacesShare(t *testing.T) {
	addr := netip.MustParseAddrPort("10.96.0.1:80")
	hints := func(more ...string) catalog.Change {
		return slice("s", append([]string{"10.1.0.1=p1 for:a", "10.1.0.3=p3 for:b"}, more...)...)
	}
	c := newSliced(t, pod("p1", "10.1.0.1"), pod("p2", "10.1.0.2"), pod("p3", "10.1.0.3"), service("web", "10.96.0.1"), hints(),
		catalog.Put(&catalog.Node{Name: "n1", Zone: "a"}), catalog.Put(&catalog.Node{Name: "n2", Zone: "a"}), catalog.Put(&catalog.Node{Name: "n3", Zone: "b"}))
	w1, w2, w3 := c.WatchFrom(addr, "n1"), c.WatchFrom(addr, "n2"), c.WatchFrom(addr, "n3")
	defer w1.Close()
	defer w2.Close()
	defer w3.Close()
	if w1.Load() != w2.Load() || w1.Load() == w3.Load() {
		t.Error("one zone has one snapshot, two have two")
	}
	c.Apply(hints("10.1.0.2=p2 for:b"))
	if nudged(w1) || nudged(w2) || !nudged(w3) {
		t.Error("a change in zone b concerns zone b")
	}
	c.Apply(hints("10.1.0.2=p2 for:a"))
	if !nudged(w1) || !nudged(w2) || !nudged(w3) || w1.Load() != w2.Load() {
		t.Error("an endpoint that goes from b to a concerns both, and a still shares")
	}
	c.Apply(catalog.Put(&catalog.Node{Name: "n2", Zone: "b"}))
	if !nudged(w2) || len(w2.Load().Endpoints) != 1 || w2.Load().Endpoints[0].Pod.Name != "p3" {
		t.Errorf("a node that is in another zone: %s", sourcetest.Show(w2.Load()))
	}
	if nudged(w1) {
		t.Error("another node's zone concerns no one else")
	}
}

// TestSlicedIncrementalIsWhole is TestIncrementalIsWhole with slices.
func TestSlicedIncrementalIsWhole(t *testing.T) {
	incremental(t, func() *catalog.Catalog { return newSliced(t) }, true)
}

// TestNodesOwn: a node's address among the mesh's is a place outside it.
func TestNodesOwn(t *testing.T) {
	ip := netip.MustParseAddr("10.1.200.1")
	c := newSliced(t)
	w := watch(t, c, "10.1.200.1:10250")
	for _, step := range []struct {
		change catalog.Change
		want   catalog.Kind
	}{
		{catalog.Put(&catalog.Node{Name: "n", Addrs: []netip.Addr{ip}}), catalog.TargetExternal},
		{catalog.Put(&catalog.Node{Name: "n"}), catalog.TargetNone},
		{catalog.Put(&catalog.Node{Name: "n", Addrs: []netip.Addr{ip}}), catalog.TargetExternal},
		{catalog.Delete(catalog.Ref{Kind: catalog.KindNode, Key: catalog.Key{Name: "n"}}), catalog.TargetNone},
	} {
		if c.Apply(step.change); w.Load().Kind != step.want {
			t.Errorf("%s, want %s", w.Load().Kind, step.want)
		}
	}
}
