package podnet_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/cni/podnet"
	"github.com/tunmesh/tunmesh/internal/nettest"
)

const within = 10 * time.Second

// node is a host with a bridge and meshed or plain pods on it.
type node struct {
	*nettest.Space
	t    *testing.T
	pods int
}

func newNode(t *testing.T) *node {
	n := &node{Space: nettest.New(t, "node"), t: t}
	n.Bridge("br0")
	n.Addr("br0", "10.77.0.1/24")
	n.Addr("br0", "fd77::1/64")
	return n
}

// pod joins the bridge as the bridge plugin does it.
func (n *node) pod(addrs ...string) (*nettest.Space, podnet.Network) {
	n.t.Helper()
	return n.join(nettest.New(n.t, fmt.Sprintf("pod%d", n.pods+1)), addrs...)
}

func (n *node) join(p *nettest.Space, addrs ...string) (*nettest.Space, podnet.Network) {
	n.t.Helper()
	n.pods++
	veth := fmt.Sprintf("veth%d", n.pods)
	n.Veth(veth, p, "eth0")
	n.Attach(veth, "br0")
	net := podnet.Network{Netns: p.Path, Uplink: filepath.Join(n.t.TempDir(), "uplink")}
	for _, a := range addrs {
		addr := netip.MustParseAddr(a)
		net.Addrs = append(net.Addrs, addr)
		if addr.Is4() {
			p.Addr("eth0", a+"/24")
			p.Route("eth0", "0.0.0.0/0", "10.77.0.1")
		} else {
			p.Addr("eth0", a+"/64")
			p.Route("eth0", "::/0", "fd77::1")
		}
	}
	settled(n.t, p, "eth0")
	settled(n.t, n.Space, "br0")
	settled(n.t, n.Space, veth)
	return p, net
}

// settled waits until the kernel has given a link its link-local address and
// found it unique, as main plugins do.
func settled(t *testing.T, s *nettest.Space, link string) {
	t.Helper()
	if !s.Settled(link, 20*time.Second) {
		t.Fatalf("the addresses of %s do not settle within 20 s", link)
	}
}

// mesh sets the network up, and makes sure that it is taken down.
func mesh(t *testing.T, n *podnet.Network) *nettest.Space {
	t.Helper()
	capture(t, n)
	t.Cleanup(func() {
		if err := n.Teardown(slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
	})
	if err := n.Setup(&podnet.Journal{}); err != nil {
		t.Fatal(err)
	}
	return nettest.Open(t, n.Uplink)
}

func capture(t *testing.T, n *podnet.Network) {
	t.Helper()
	var err error
	if n.Link, err = podnet.Capture(n.Netns, "eth0"); err != nil {
		t.Fatal(err)
	}
	if n.NetnsID, err = podnet.Identify(n.Netns); err != nil {
		t.Fatal(err)
	}
}

func families() map[string][2][]string {
	return map[string][2][]string{
		"ipv4": {{"10.77.0.4"}, {"10.77.0.5"}},
		"ipv6": {{"fd77::4"}, {"fd77::5"}},
		"dual": {{"10.77.0.4", "fd77::4"}, {"10.77.0.5", "fd77::5"}},
	}
}

func TestTwoMeshedPodsOnOneBridge(t *testing.T) {
	t.Parallel()
	for name, addrs := range families() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			p1, n1 := n.pod(addrs[0]...)
			p2, n2 := n.pod(addrs[1]...)
			u1, u2 := mesh(t, &n1), mesh(t, &n2)
			nettest.Join(t, p1, "eth0", u1, "wire0")
			nettest.Join(t, p2, "eth0", u2, "wire0")
			for i := range n1.Addrs {
				a, b := n1.Addrs[i], n2.Addrs[i]
				gateway := netip.MustParseAddr("10.77.0.1")
				if a.Is6() {
					gateway = netip.MustParseAddr("fd77::1")
				}
				p1.Serve(netip.AddrPortFrom(a, 7000))
				p2.Serve(netip.AddrPortFrom(b, 7000))
				n.Serve(netip.AddrPortFrom(gateway, 7000))
				reach(t, "pod 1 to pod 2", p1, a, b)
				reach(t, "pod 2 to pod 1", p2, b, a)
				reach(t, "pod 1 to node", p1, a, gateway)
				reach(t, "node to pod 2", n.Space, gateway, b)
				reach(t, "pod 1 to itself", p1, a, a)
			}
			for _, m := range []*podnet.Network{&n1, &n2} {
				if err := m.Check(); err != nil {
					t.Errorf("check: %v", err)
				}
			}
		})
	}
}

// reach talks by TCP and UDP and pings, and expects the client's address kept.
func reach(t *testing.T, what string, from *nettest.Space, src, dst netip.Addr) {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		payload := make([]byte, 1200)
		seen, err := from.Talk(network, netip.AddrPortFrom(dst, 7000), payload, within)
		if err != nil {
			t.Errorf("%s by %s: %v", what, network, err)
		} else if seen != src {
			t.Errorf("%s by %s: the server saw %s, not %s", what, network, seen, src)
		}
	}
	if peer, err := from.Ping(dst, within); err != nil {
		t.Errorf("%s: ping: %v", what, err)
	} else if peer != dst {
		t.Errorf("%s: %s answers the ping, not %s", what, peer, dst)
	}
}

// A pod with a user namespace owns its network namespace; the uplink's is the node's.
func TestPodWithAUserNamespace(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	p, m := n.join(nettest.NewOwned(t, "owned"), "10.77.0.4", "fd77::4")
	capture(t, &m)
	before := p.Picture()
	u := mesh(t, &m)
	leave := nettest.Join(t, p, "eth0", u, "wire0")
	for i, a := range addrs("10.77.0.1", "fd77::1") {
		n.Serve(netip.AddrPortFrom(a, 7000))
		reach(t, "pod to node", p, m.Addrs[i], a)
	}
	if err := m.Check(); err != nil {
		t.Errorf("check: %v", err)
	}
	leave()
	if err := m.Teardown(quiet()); err != nil {
		t.Fatal(err)
	}
	if d := nettest.Changes(before, p.Picture()); d != "" {
		t.Errorf("the pod's namespace is changed:\n%s", d)
	}
}

func TestSetupAgainChangesNothing(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	p, m := n.pod("10.77.0.4", "fd77::4")
	u := mesh(t, &m)
	inP, inU := p.Picture(), u.Picture()
	if err := m.Setup(&podnet.Journal{}); err != nil {
		t.Fatal(err)
	}
	if d := nettest.Changes(inP, p.Picture()) + nettest.Changes(inU, u.Picture()); d != "" {
		t.Errorf("changed:\n%s", d)
	}
}

var errInjected = errors.New("made to fail")

func TestEveryStepFailsOnceAndNothingIsLeft(t *testing.T) {
	t.Parallel()
	for name, addrs := range families() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			p, m := n.pod(addrs[0]...)
			n.Neighbours(p)
			p.Sysctl("net/ipv4/conf/eth0/log_martians", "1")
			p.Sysctl("net/ipv6/conf/eth0/hop_limit", "61")
			capture(t, &m)
			steps := stepsOf(t, &m)
			before, host := p.Picture(), n.Picture()
			for _, step := range steps {
				j := &podnet.Journal{Before: func(s string) error {
					if s == step {
						return errInjected
					}
					return nil
				}}
				err := m.Setup(j)
				if !errors.Is(err, errInjected) {
					t.Fatalf("%s: %v", step, err)
				}
				if err := j.Undo(); err != nil {
					t.Errorf("%s: undo: %v", step, err)
				}
				if d := nettest.Changes(before, p.Picture()); d != "" {
					t.Errorf("%s fails: the pod's namespace is changed:\n%s", step, d)
				}
				if d := nettest.Changes(host, n.Picture()); d != "" {
					t.Errorf("%s fails: the node's namespace is changed:\n%s", step, d)
				}
				if podnet.Exists(m.Uplink) {
					t.Errorf("%s fails: the uplink namespace is left", step)
				}
			}
		})
	}
}

// Neighbours gives a pod a permanent neighbour of each family.
func (n *node) Neighbours(p *nettest.Space) {
	p.Neighbour("eth0", "10.77.0.99", "02:00:00:00:00:99")
	p.Neighbour("eth0", "fd77::99", "02:00:00:00:00:99")
}

// stepsOf runs Setup once to hear what it asks.
func stepsOf(t *testing.T, m *podnet.Network) []string {
	t.Helper()
	var steps []string
	j := &podnet.Journal{Before: func(s string) error {
		steps = append(steps, s)
		return nil
	}}
	err := m.Setup(j)
	if uerr := j.Undo(); err != nil || uerr != nil {
		t.Fatal(err, uerr)
	}
	if len(steps) < 16 {
		t.Fatalf("only %d steps: %q", len(steps), steps)
	}
	return steps
}
