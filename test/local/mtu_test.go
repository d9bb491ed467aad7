package local_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/nettest"
	"github.com/tunmesh/tunmesh/test/meshtest"
)

// moved is how much crosses each narrow path, each way.
const moved = 10 << 20

// TestNarrowPaths has paths that take smaller packets than the pods' interfaces
// do, and say so: between a pod and a host behind two routers, and between two
// pods with a router between them.
//
//	pods ── node ──1400── router ──1500── host
//	client ── node (a route of 1300) ── server
func TestNarrowPaths(t *testing.T) {
	m := meshtest.Up(t, bin, "narrow", meshtest.Server("server", 1), meshtest.Client("client", true, ""))
	far := newFar(t, m, 1400)
	client, server := m.Pod(t, "client"), m.Pod(t, "server")
	t.Run("to a host", func(t *testing.T) {
		check := tells(t, far.node)
		for _, ip := range far.addrs {
			upload(t, inPod(m, "client"), ip)
		}
		check()
		for _, ip := range far.addrs {
			crosses(t, inPod(m, "client"), ip)
		}
	})
	t.Run("from a host", func(t *testing.T) {
		for _, ip := range server.IPs {
			crosses(t, far.run, ip)
		}
	})
	t.Run("a router that says nothing", func(t *testing.T) {
		// The kernel at the other end would wait for ever, so it only receives.
		far.narrow(1500)
		far.router.MTU("eth0", 1300)
		far.router.Sysctl("net/ipv4/icmp_errors_use_inbound_ifaddr", "1") // or its source is not known when a rule asks
		far.router.Mute(farRouter4 + "/32")
		far.router.Mute(farRouter6 + "/128")
		before := map[string]int{}
		for _, pod := range []string{"client", "server"} {
			before[pod] = narrowed(t, m, pod)
		}
		for _, ip := range far.addrs {
			upload(t, inPod(m, "client"), ip)
		}
		for _, ip := range server.IPs {
			download(t, far.run, ip)
		}
		for pod, n := range before {
			if now := narrowed(t, m, pod); now < n+2 {
				t.Errorf("%s: %d connections were narrowed, want one of each family", pod, now-n)
			}
		}
	})
	t.Run("between pods", func(t *testing.T) {
		for _, uplink := range uplinks(t, m) {
			uplink.Route("eth0", "10.244.0.0/25", "10.244.0.1")
			uplink.Route("eth0", "fd00:10:244::/65", "fd00:10:244::1")
		}
		for _, ip := range append(client.IPs, server.IPs...) {
			far.node.Narrow("br0", prefix(ip), 1300)
		}
		check := tells(t, far.node)
		for _, ip := range server.IPs {
			upload(t, inPod(m, "client"), ip)
		}
		check()
		for _, ip := range server.IPs {
			crosses(t, inPod(m, "client"), ip)
		}
	})
}

// TestMTU runs pods whose interfaces take the smallest packets that IPv6 allows,
// and jumbo frames.
func TestMTU(t *testing.T) {
	for _, mtu := range []int{1280, 9000} {
		t.Run(fmt.Sprint(mtu), func(t *testing.T) {
			m := meshtest.UpWith(t, bin, fmt.Sprintf("mtu%d", mtu), []string{"--mtu", fmt.Sprint(mtu)},
				meshtest.Server("server", 1), meshtest.Client("client", true, ""), meshtest.Client("outsider", false, ""))
			server := m.Pod(t, "server")
			for _, pid := range []int{server.PIDs["app"], m.Pod(t, "outsider").PIDs["app"]} {
				pod := nettest.Open(t, fmt.Sprintf("/proc/%d/ns/net", pid))
				var eth0 *net.Interface
				if err := pod.Do(func() (err error) { eth0, err = net.InterfaceByName("eth0"); return err }); err != nil || eth0.MTU != mtu {
					t.Errorf("eth0: %+v, %v: want an mtu of %d", eth0, err, mtu)
				}
			}
			for _, from := range []string{"client", "outsider"} {
				for _, ip := range server.IPs {
					crosses(t, inPod(m, from), ip)
				}
			}
			if s := finish[spread](t, load(t, m, time.Second)); s.failed() != 0 || s.calls() < 20 {
				t.Errorf("HTTP: %d answered, failed: %v", s.calls(), s.Errors)
			}
		})
	}
}

// tester runs the test application somewhere.
type tester func(t *testing.T, args ...string) []byte

func inPod(m *meshtest.Mesh, pod string) tester {
	return func(t *testing.T, args ...string) []byte {
		t.Helper()
		return m.Exec(t, pod, append([]string{"testapp"}, args...)...)
	}
}

// crosses moves bytes both ways between from and the server at ip, and a
// datagram that has to be cut.
func crosses(t *testing.T, from tester, ip string) {
	t.Helper()
	upload(t, from, ip)
	download(t, from, ip)
	u := decode[transfer](t, from(t, "udp", "--size", "8000", "--tries", "5", net.JoinHostPort(ip, "5353")))
	if !u.Same || u.Error != "" {
		t.Errorf("8,000 bytes by UDP to %s and back: %+v", ip, u)
	}
}

func upload(t *testing.T, from tester, ip string) {
	t.Helper()
	whole(t, "upload to "+ip, from(t, "upload", "--bytes", fmt.Sprint(moved), net.JoinHostPort(ip, "7001")))
}

func download(t *testing.T, from tester, ip string) {
	t.Helper()
	whole(t, "download from "+ip, from(t, "upload", "--receive", "--bytes", fmt.Sprint(moved), net.JoinHostPort(ip, "7003")))
}

func whole(t *testing.T, what string, out []byte) {
	t.Helper()
	r := decode[transfer](t, out)
	if !r.Same || r.Error != "" {
		t.Errorf("%s: %+v", what, r)
		return
	}
	t.Logf("%s: %.2f s", what, r.Secs)
}

// tells expects that from now until the call of what it returns the router has
// told somebody of each family that packets are too big.
func tells(t *testing.T, router *nettest.Space) (check func()) {
	t.Helper()
	v4, v6 := told(t, router)
	return func() {
		t.Helper()
		if now4, now6 := told(t, router); now4 == v4 || now6 == v6 {
			t.Errorf("the router has told nobody that packets are too big (IPv4 %d, IPv6 %d times): the path is not narrow", now4-v4, now6-v6)
		}
	}
}

// told counts the ICMP errors that a router has sent.
func told(t *testing.T, router *nettest.Space) (v4, v6 int) {
	t.Helper()
	if err := router.Do(func() error {
		raw, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(raw)) {
			if f := strings.Fields(line); f[0] != "Icmp:" {
				continue
			} else if names == nil {
				names = f
			} else if i := slices.Index(names, "OutDestUnreachs"); i > 0 {
				v4, err = strconv.Atoi(f[i])
			}
		}
		if err != nil {
			return err
		}
		if raw, err = os.ReadFile("/proc/thread-self/net/snmp6"); err != nil {
			return err
		}
		for line := range strings.Lines(string(raw)) {
			if n, ok := strings.CutPrefix(line, "Icmp6OutPktTooBigs"); ok {
				v6, err = strconv.Atoi(strings.TrimSpace(n))
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return v4, v6
}

// narrowed is how many of a sidecar's connections were, without a word.
func narrowed(t *testing.T, m *meshtest.Mesh, pod string) (n int) {
	t.Helper()
	r := meshtest.JSON[response](t, m, m.Pod(t, pod).Name, "testapp", "http", "http://127.0.0.1:4191/metrics")
	for line := range strings.Lines(r.Body) {
		if _, err := fmt.Sscanf(line, "netstack_tcp_narrowed_total %d", &n); err == nil {
			return n
		}
	}
	t.Fatalf("%s has no netstack_tcp_narrowed_total: %d %s", pod, r.Status, r.Error)
	return 0
}

func prefix(ip string) string {
	a := netip.MustParseAddr(ip)
	return netip.PrefixFrom(a, a.BitLen()).String()
}

// uplinks are the namespaces behind the meshed pods.
func uplinks(t *testing.T, m *meshtest.Mesh) (all []*nettest.Space) {
	t.Helper()
	holder, err := m.HolderPID()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/root/run/netns/tunmesh-*", holder))
	if err != nil || len(files) != 2 {
		t.Fatalf("uplinks %v, %v: want two", files, err)
	}
	for _, f := range files {
		all = append(all, nettest.Open(t, f))
	}
	return all
}

// far is a host without a sidecar, two routers away; the node is one of them.
type far struct {
	m                  *meshtest.Mesh
	node, router, host *nettest.Space
	addrs              []string
}

const (
	farRouter4 = "10.250.0.2"
	farRouter6 = "fd00:250::2"
)

// newFar makes the host, and a server on it.
func newFar(t *testing.T, m *meshtest.Mesh, mtu int) *far {
	t.Helper()
	holder, err := m.HolderPID()
	if err != nil {
		t.Fatal(err)
	}
	f := &far{
		m:    m,
		node: nettest.Open(t, fmt.Sprintf("/proc/%d/ns/net", holder)), router: nettest.New(t, "router"), host: nettest.New(t, "host"),
		addrs: []string{"10.250.1.2", "fd00:250:1::2"},
	}
	for _, s := range []*nettest.Space{f.node, f.router, f.host} {
		s.Sysctl("net/ipv6/conf/default/accept_dad", "0")
	}
	f.node.Veth("far0", f.router, "near0")
	f.router.Veth("eth0", f.host, "eth0")
	f.narrow(mtu)
	for _, a := range []struct {
		s              *nettest.Space
		link, one, two string
	}{
		{f.node, "far0", "10.250.0.1/30", "fd00:250::1/64"},
		{f.router, "near0", farRouter4 + "/30", farRouter6 + "/64"},
		{f.router, "eth0", "10.250.1.1/24", "fd00:250:1::1/64"},
		{f.host, "eth0", f.addrs[0] + "/24", f.addrs[1] + "/64"},
	} {
		a.s.Addr(a.link, a.one)
		a.s.Addr(a.link, a.two)
	}
	for _, s := range []*nettest.Space{f.node, f.router} {
		s.Sysctl("net/ipv4/ip_forward", "1")
		s.Sysctl("net/ipv6/conf/all/forwarding", "1")
	}
	f.node.Route("far0", "10.250.1.0/24", farRouter4)
	f.node.Route("far0", "fd00:250:1::/64", farRouter6)
	f.router.Route("near0", "10.244.0.0/24", "10.250.0.1")
	f.router.Route("near0", "fd00:10:244::/64", "fd00:250::1")
	f.host.Route("eth0", "0.0.0.0/0", "10.250.1.1")
	f.host.Route("eth0", "::/0", "fd00:250:1::1")

	serve := f.command(t, "serve")
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = serve.Process.Signal(os.Interrupt)
		_ = serve.Wait()
	})
	meshtest.Eventually(t, 10*time.Second, "the host serves", func() bool {
		return f.host.Do(func() error {
			c, err := net.DialTimeout("tcp", net.JoinHostPort(f.addrs[0], "7001"), time.Second)
			if err != nil {
				return err
			}
			return c.Close()
		}) == nil
	})
	return f
}

// narrow is the mtu of both ends of the link between node and router.
func (f *far) narrow(mtu int) {
	f.node.MTU("far0", mtu)
	f.router.MTU("near0", mtu)
}

// command is the test application on the host.
func (f *far) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + f.host.Path, f.m.Program("testapp")}, args...)...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func (f *far) run(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := f.command(t, args...).Output()
	if err != nil {
		t.Fatalf("on the host, %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}
