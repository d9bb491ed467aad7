package podnet_test

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/cni/podnet"
	"github.com/tunmesh/tunmesh/internal/nettest"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// An ADD that is killed leaves any prefix of its steps behind, and its state
// file. Teardown makes the pod what it was.
func TestTeardownFromEveryHalfMadeState(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	p, m := n.pod("10.77.0.4", "fd77::4")
	n.Neighbours(p)
	capture(t, &m)
	before := p.Picture()
	for _, step := range append([]string{"nothing fails"}, stepsOf(t, &m)...) {
		err := m.Setup(&podnet.Journal{Before: func(s string) error {
			if s == step {
				return errInjected
			}
			return nil
		}})
		if err != nil && !errors.Is(err, errInjected) {
			t.Fatal(err)
		}
		for range 2 { // the second time nothing is there
			if err := m.Teardown(quiet()); err != nil {
				t.Errorf("%s: %v", step, err)
			}
		}
		if d := nettest.Changes(before, p.Picture()); d != "" {
			t.Errorf("%s: the pod's namespace is changed:\n%s", step, d)
		}
		if podnet.Exists(m.Uplink) {
			t.Errorf("%s: the uplink namespace is left", step)
		}
	}
}

// An application with root in the pod's namespace can leave it in any state.
func TestTeardownOfAHostilePod(t *testing.T) {
	t.Parallel()
	for name, misdeed := range map[string]func(p *nettest.Space){
		"TUN deleted":          func(p *nettest.Space) { p.Delete("eth0") },
		"another in its place": func(p *nettest.Space) { p.Delete("eth0"); p.Bridge("eth0") },
		"lo down":              func(p *nettest.Space) { p.Down("lo") },
		"addresses taken": func(p *nettest.Space) {
			p.Bridge("d0")
			p.Addr("d0", "10.77.0.4/24")
			p.Addr("d0", "fd77::4/64")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			p, m := n.pod("10.77.0.4", "fd77::4")
			mac := p.MAC("eth0")
			mesh(t, &m)
			misdeed(p)
			if err := m.Teardown(quiet()); err != nil {
				t.Fatal(err)
			}
			if podnet.Exists(m.Uplink) {
				t.Error("the uplink namespace is left")
			}
			if !p.Has("eth0") || p.MAC("eth0") != mac {
				t.Error("the interface is not back")
			}
			if !n.Has("veth1") {
				t.Error("its peer is gone")
			}
		})
	}
}

func TestTeardownWithoutThePod(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(m *podnet.Network){
		"no namespace given":   func(m *podnet.Network) { m.Netns = "" },
		"namespace gone":       func(m *podnet.Network) { m.Netns = filepath.Join(filepath.Dir(m.Netns), "gone") },
		"another in its place": func(m *podnet.Network) { m.NetnsID.Ino++ },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			_, m := n.pod("10.77.0.4")
			mesh(t, &m)
			lost := m
			lose(&lost)
			if err := lost.Teardown(quiet()); err != nil {
				t.Fatal(err)
			}
			if podnet.Exists(m.Uplink) || n.Has("veth1") {
				t.Error("the uplink namespace or the interface's peer is left")
			}
		})
	}
}

func TestDiscardLeavesNothing(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	p, m := n.pod("10.77.0.4")
	u := mesh(t, &m)
	// The broker's descriptors, and whoever else holds the namespace.
	nettest.Join(t, p, "eth0", u, "wire0")
	if err := m.Discard(quiet()); err != nil {
		t.Fatal(err)
	}
	if p.Has("eth0") || u.Has("eth0") || u.Has("wire0") || n.Has("veth1") {
		t.Error("an interface is left")
	}
}

// The uplink's file is made before the namespace is mounted on it.
func TestTeardownOfAnEmptyFile(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	p, m := n.pod("10.77.0.4")
	capture(t, &m)
	before := p.Picture()
	if err := osWrite(m.Uplink); err != nil {
		t.Fatal(err)
	}
	if err := m.Teardown(quiet()); err != nil {
		t.Fatal(err)
	}
	if exists(m.Uplink) {
		t.Error("the file is left")
	}
	if d := nettest.Changes(before, p.Picture()); d != "" {
		t.Errorf("the pod's namespace is changed:\n%s", d)
	}
}

func TestCheckSeesEveryChange(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(p, u *nettest.Space){
		"there is no wire0":      func(_, u *nettest.Space) { u.Delete("wire0") },
		"there is no eth0":       func(p, _ *nettest.Space) { p.Delete("eth0") },
		"it is down":             func(_, u *nettest.Space) { u.Down("wire0") },
		"proxy_arp is 0":         func(_, u *nettest.Space) { u.Sysctl("net/ipv4/conf/eth0/proxy_arp", "0") },
		"accept_local is 0":      func(_, u *nettest.Space) { u.Sysctl("net/ipv4/conf/wire0/accept_local", "0") },
		"ip_forward is 0":        func(_, u *nettest.Space) { u.Sysctl("net/ipv4/ip_forward", "0") },
		"is delivered to the":    func(_, u *nettest.Space) { u.Down("eth0"); u.Up("eth0") },
		"it has the address":     func(p, _ *nettest.Space) { p.Addr("eth0", "10.9.9.9/24") },
		"there is a route":       func(_, u *nettest.Space) { u.Route("eth0", "10.9.9.0/24", "") },
		"its mtu is 1400":        func(p, _ *nettest.Space) { p.MTU("eth0", 1400) },
		"a second interface, d0": func(p, _ *nettest.Space) { p.Bridge("d0") },
		"the neighbour":          func(_, u *nettest.Space) { u.Neighbour("eth0", "10.77.0.99", "02:00:00:00:00:01") },
		"is no TUN but bridge":   func(p, _ *nettest.Space) { p.Delete("eth0"); p.Bridge("eth0") },
		"answer for fd77::4":     func(_, u *nettest.Space) { u.Sysctl("net/ipv6/conf/eth0/ndisc_evict_nocarrier", "1"); u.Down("eth0") },
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			p, m := n.pod("10.77.0.4", "fd77::4")
			n.Neighbours(p)
			u := mesh(t, &m)
			if err := m.Check(); err != nil {
				t.Fatalf("before the change: %v", err)
			}
			change(p, u)
			if err := m.Check(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
}

func TestCaptureRefusesWhatItCannotKeep(t *testing.T) {
	t.Parallel()
	for want, make := range map[string]func(p *nettest.Space){
		"a second interface, net1": func(p *nettest.Space) { p.Bridge("net1") },
		"a routing rule":           func(p *nettest.Space) { p.Rule("10.77.0.4/32", 100) },
		"several hops":             func(p *nettest.Space) { p.Multipath("eth0", "10.9.0.0/16", "10.77.0.2", "10.77.0.3") },
		"there is no eth0":         func(p *nettest.Space) { p.Delete("eth0") },
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			p, m := n.pod("10.77.0.4")
			make(p)
			if _, err := podnet.Capture(m.Netns, "eth0"); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
	t.Run("set up before", func(t *testing.T) {
		t.Parallel()
		n := newNode(t)
		_, m := n.pod("10.77.0.4")
		mesh(t, &m)
		if _, err := podnet.Capture(m.Netns, "eth0"); err == nil || !strings.Contains(err.Error(), "set up before") {
			t.Errorf("got %v", err)
		}
	})
}

func TestValidate(t *testing.T) {
	t.Parallel()
	good := func() podnet.Network {
		return podnet.Network{
			Netns: "/p", Uplink: "/u", Addrs: addrs("10.0.0.2"),
			Link: podnet.Link{Name: "eth0", MTU: 1500, Addrs: []podnet.Addr{{Prefix: prefix("10.0.0.2/24")}, {Prefix: prefix("fd00::2/64")}}},
		}
	}
	if n := good(); n.Validate() != nil {
		t.Fatal(n.Validate())
	}
	for want, spoil := range map[string]func(n *podnet.Network){
		"both namespaces":  func(n *podnet.Network) { n.Uplink = "" },
		"is not usable":    func(n *podnet.Network) { n.Link.Name = "a/b" },
		"no address":       func(n *podnet.Network) { n.Addrs = nil },
		"choose another":   func(n *podnet.Network) { n.Link.Name = "wire0" },
		"no address for a": func(n *podnet.Network) { n.Addrs = addrs("fe80::1") },
		"is not on eth0":   func(n *podnet.Network) { n.Addrs = addrs("10.0.0.3") },
		"below 1280":       func(n *podnet.Network) { n.Addrs, n.Link.MTU = addrs("fd00::2"), 1279 },
		"below 576":        func(n *podnet.Network) { n.Link.MTU = 500 },
	} {
		n := good()
		spoil(&n)
		if err := n.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
