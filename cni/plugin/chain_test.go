package plugin_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/tunmesh/tunmesh/internal/nettest"
)

const subnet4, subnet6 = "10.78.0.0/24", "fd78::/64"

func TestChainOfReferencePlugins(t *testing.T) {
	nettest.NeedRoot(t)
	for _, c := range []struct {
		main, version string
		subnets       []string
	}{
		{"bridge", "0.3.1", []string{subnet4}},
		{"bridge", "0.4.0", []string{subnet4}},
		{"bridge", "1.0.0", []string{subnet6}},
		{"bridge", "1.1.0", []string{subnet4, subnet6}},
		{"ptp", "1.1.0", []string{subnet4}},
		{"ptp", "1.0.0", []string{subnet6}},
		{"ptp", "0.4.0", []string{subnet4, subnet6}},
	} {
		t.Run(fmt.Sprint(c.main, " ", c.version, " ", len(c.subnets), c.subnets[0]), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			hold := w.agent()
			l := w.list(w.conflist(c.main, c.version, c.subnets...))
			var pods []*nettest.Space
			var results []*types100.Result
			for _, id := range []string{"one", "two"} {
				p := nettest.New(t, id)
				r, err := w.add(l, w.runtime(p, id, injected()))
				if err != nil {
					t.Fatal(err)
				}
				w.serve(hold, id)
				w.checkResult(r, p.Path, id)
				pods, results = append(pods, p), append(results, r)
			}
			w.settle() // an address that is not known to be unique cannot be listened at
			for i := range c.subnets {
				one, two := addr(results[0], i), addr(results[1], i)
				node, _ := netip.AddrFromSlice(results[0].IPs[i].Gateway)
				node = node.Unmap()
				pods[0].Serve(netip.AddrPortFrom(one, 7000))
				pods[1].Serve(netip.AddrPortFrom(two, 7000))
				w.Serve(netip.AddrPortFrom(node, 7000))
				talk(t, pods[0], one, two)
				talk(t, pods[1], two, one)
				talk(t, pods[0], one, node)
				talk(t, w.Space, node, two)
			}
			for i, id := range []string{"one", "two"} {
				rt := w.runtime(pods[i], id, injected())
				for range 2 {
					if err := w.del(l, rt); err != nil {
						t.Errorf("DEL %s: %v", id, err)
					}
				}
				if pods[i].Has("eth0") {
					t.Errorf("%s still has eth0", id)
				}
			}
			if left := w.leftovers(); len(left) != 0 {
				t.Errorf("left: %q", left)
			}
			if names, _ := hold.List(); len(names) != 0 {
				t.Errorf("the broker still holds %q", names)
			}
			if leases, _ := filepath.Glob(filepath.Join(w.dir, "ipam", "pods", "*78*")); len(leases) != 0 {
				t.Errorf("addresses not released: %q", leases)
			}
			for _, line := range w.Picture() {
				if strings.HasPrefix(line, "link veth") {
					t.Errorf("left on the node: %s", line)
				}
			}
		})
	}
}

// checkResult: the sandbox interface stays, and the uplink is added.
func (w *world) checkResult(r *types100.Result, netns, id string) {
	w.t.Helper()
	has := func(name, sandbox string) bool {
		return slices.ContainsFunc(r.Interfaces, func(i *types100.Interface) bool { return i.Name == name && i.Sandbox == sandbox })
	}
	if !has("eth0", netns) || !has("wire0", filepath.Join(w.netnsDir(), "tunmesh-"+id)) {
		w.t.Errorf("interfaces of the result: %+v", r.Interfaces)
	}
	for _, ip := range r.IPs {
		if ip.Interface == nil || r.Interfaces[*ip.Interface].Name != "eth0" {
			w.t.Errorf("address %s is not eth0's", ip.Address.String())
		}
	}
}

func addr(r *types100.Result, i int) netip.Addr {
	a, _ := netip.AddrFromSlice(r.IPs[i].Address.IP)
	return a.Unmap()
}

func talk(t *testing.T, from *nettest.Space, src, dst netip.Addr) {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		seen, err := from.Talk(network, netip.AddrPortFrom(dst, 7000), []byte(strings.Repeat("x", 1200)), within)
		if err != nil || seen != src {
			t.Errorf("%s to %s by %s: the server saw %s, %v", src, dst, network, seen, err)
		}
	}
}
