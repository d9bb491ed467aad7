package layout_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tunmesh/tunmesh/test/cluster/internal/layout"
)

func TestAddressesAreApart(t *testing.T) {
	c := layout.Cluster{Nodes: layout.MaxNodes, DualStack: true}
	var pods, nodes []netip.Prefix
	seen := map[netip.Addr]bool{}
	for _, p := range c.Addresses() {
		seen[p.Addr()] = true
	}
	for _, n := range c.AllNodes() {
		for _, a := range n.Addresses() {
			if seen[a.Addr()] {
				t.Errorf("%s has %v, which is somebody else's", n.Name(), a)
			}
			seen[a.Addr()] = true
		}
		nodes = append(nodes, n.Addresses()...)
		for i, p := range n.Pods() {
			if !c.Pods()[i].Overlaps(p) || p != p.Masked() {
				t.Errorf("%s: %v is not a part of %v", n.Name(), p, c.Pods()[i])
			}
			for _, other := range pods {
				if p.Overlaps(other) {
					t.Errorf("%s: %v overlaps %v", n.Name(), p, other)
				}
			}
			pods = append(pods, p)
		}
	}
	want := "172.18.0.11/24,fd00:172:18::11/64,172.18.0.12/24,fd00:172:18::12/64,172.18.0.13/24,fd00:172:18::13/64"
	if d := cmp.Diff(want, layout.Join(nodes)); d != "" {
		t.Error(d)
	}
	want = "10.244.1.0/24,fd00:10:244:1::/64,10.244.2.0/24,fd00:10:244:2::/64,10.244.3.0/24,fd00:10:244:3::/64"
	if d := cmp.Diff(want, layout.Join(pods)); d != "" {
		t.Error(d)
	}
	if !c.Services()[0].Contains(c.DNS()) {
		t.Error("DNS is no Service")
	}
}

func TestSaveAndLoad(t *testing.T) {
	c := layout.Cluster{Dir: t.TempDir(), Nodes: 2, FeatureGates: map[string]bool{"X": true}, Images: []string{"a.tar"}}
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	got, err := layout.Load(c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(c, got); d != "" {
		t.Error(d)
	}
	if _, err := layout.Load(t.TempDir()); err == nil {
		t.Error("a folder without a layout was read")
	}
}
