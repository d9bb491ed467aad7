// Package bypass_test tries every way round the sidecar that we know of, from
// an app process that is root with every capability of its pod's user
// namespace, while everything on the node's side is captured.
package bypass_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

const (
	marker = "TUNMESH-BYPASS-MARKER"
	port   = 7777
)

func evil() string {
	return `apiVersion: v1
kind: Pod
metadata:
  name: evil
  namespace: default
  annotations: {tunmesh.io/inject: enabled}
spec:
  containers:
    - name: app
      image: attacker
      command: ["sleep", "100000"]
      securityContext:
        runAsUser: 0
        capabilities: {add: ["ALL"]}
`
}

// outside is what lies beyond the sidecar: addresses, listeners, ears.
type outside struct {
	m            *meshtest.Mesh
	self         []netip.Addr
	sink4, sink6 netip.Addr
	sniff        *sniffer
	sink         *sink
	peer         string
}

func newOutside(t *testing.T, bin meshtest.Bin) *outside {
	t.Helper()
	m := meshtest.Up(t, bin, "bypass", evil(), meshtest.Server("server", 1))
	o := &outside{m: m}
	pod := m.Pod(t, "evil")
	ips := pod.IPs
	if len(ips) == 0 {
		ips = []string{pod.IP}
	}
	for _, ip := range ips {
		a := netip.MustParseAddr(ip)
		o.self = append(o.self, a)
		b := a.AsSlice()
		b[len(b)-1] = 0xfa // .250: of the pods' range, and no pod's
		s, _ := netip.AddrFromSlice(b)
		bits := "/32"
		if a.Is4() {
			o.sink4 = s
		} else {
			o.sink6, bits = s, "/128"
		}
		if out, err := m.InNode(t, "ip", "addr", "add", s.String()+bits, "dev", "lo").CombinedOutput(); err != nil {
			t.Fatalf("ip addr add: %v: %s", err, out)
		}
	}
	pid, err := m.HolderPID()
	if err != nil {
		t.Fatal(err)
	}
	sinks := []netip.Addr{o.sink4}
	if o.sink6.IsValid() {
		sinks = append(sinks, o.sink6)
		time.Sleep(2 * time.Second) // duplicate address detection of the sink's
	}
	o.sink = newSink(t, pid, sinks, port)
	o.sniff = newSniffer(t, pid)
	o.peer = m.Pod(t, "server").IP + ":7000"
	return o
}

func (o *outside) attack(limit time.Duration, way string) ([]byte, error) {
	cmd := []string{"attacker", way, "-sink4", o.sink4.String(), "-port", fmt.Sprint(port), "-marker", marker, "-peer", o.peer}
	if o.sink6.IsValid() {
		cmd = append(cmd, "-sink6", o.sink6.String())
	}
	return o.m.TryExec(limit, "evil", cmd...)
}

func (o *outside) isSelf(a netip.Addr) bool {
	for _, s := range o.self {
		if s == a {
			return true
		}
	}
	return false
}

// judge says what was seen outside that must not be.
func (o *outside) judge(seen []packet) []string {
	var bad []string
	for _, p := range seen {
		toSink := p.dst == o.sink4 || p.dst == o.sink6
		fromEvil := o.isSelf(p.src)
		carried := p.proto == 17 || p.proto == 1 || p.proto == 58
		marked := bytes.Contains(p.bytes, []byte(marker))
		switch {
		case toSink && !carried:
			bad = append(bad, "reached the sink: "+p.String())
		case toSink && !fromEvil:
			bad = append(bad, "with a forged source: "+p.String())
		case marked && !(carried && fromEvil):
			bad = append(bad, "carries the marker: "+p.String())
		case p.src == netip.MustParseAddr("fe80::77"):
			bad = append(bad, "from the app's own link-local address: "+p.String())
		}
	}
	return bad
}

func TestBypass(t *testing.T) {
	mustRoot(t)
	bin, err := meshtest.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	o := newOutside(t, bin)

	t.Run("the judge sees what passes", func(t *testing.T) {
		// Negative case: the same segments from outside the mesh are noticed.
		o.sniff.take()
		cmd := o.m.InNode(t, "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%v/%d && echo %s >&3", o.sink4, port, marker))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		time.Sleep(200 * time.Millisecond)
		if len(o.judge(o.sniff.take())) == 0 || len(o.sink.take()) == 0 {
			t.Fatal("a plain connection to the sink from the node was not noticed: this test could not fail")
		}
		// And an attack that is allowed, UDP with the true source, does arrive.
	})

	for _, way := range []string{
		"connect", "bindtodevice", "mark", "raw", "packet", "spoof-tcp", "spoof-udp", "spoof-icmp", "linklocal", "exthdr", "tunnels",
		"fragments", "options", "alpn", "setns", "ptrace", "uid", "broker", "tun", "routes", "links",
	} {
		t.Run(way, func(t *testing.T) {
			o.sniff.take()
			o.sink.take()
			out, err := o.attack(time.Minute, way)
			if err != nil && !strings.Contains(string(out), "TRIED") {
				t.Fatalf("the attacker did not run: %v: %s", err, out)
			}
			time.Sleep(300 * time.Millisecond)
			for line := range strings.Lines(string(out)) {
				if strings.HasPrefix(line, "GOT") {
					t.Error(strings.TrimSpace(line))
				}
			}
			for _, bad := range o.judge(o.sniff.take()) {
				t.Error(bad)
			}
			for _, from := range o.sink.take() {
				t.Errorf("the sink accepted a connection from %s", from)
			}
			if !strings.Contains(string(out), "DONE") {
				t.Errorf("the attacker did not finish: %v", err)
			}
			if testing.Verbose() || t.Failed() {
				t.Logf("%s", out)
			}
		})
	}

	t.Run("through kills of the sidecar", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		cmd := o.m.Command(ctx, "local", "exec", "evil", "--", "attacker", "squat", "-sink4", o.sink4.String())
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			pid := o.m.Pod(t, "evil").PIDs["mesh-proxy"]
			if pid <= 1 {
				t.Fatal("no sidecar")
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			meshtest.Eventually(t, time.Minute, "the sidecar is back", func() bool {
				p := o.m.Pod(t, "evil")
				return p.Ready && p.PIDs["mesh-proxy"] != pid
			})
		}
		cancel()
		_ = cmd.Wait()
		if s := out.String(); strings.Contains(s, "GOT") || !strings.Contains(s, "refused") {
			t.Errorf("the app asked while sidecars were killed: %s", s)
		}
	})
}

// The sidecars run without any privilege, and pods without any rule.
func TestSidecarsHaveNoPrivilege(t *testing.T) {
	mustRoot(t)
	bin, err := meshtest.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := meshtest.Up(t, bin, "unpriv", meshtest.Server("server", 2), meshtest.Client("client", true, ""))
	sidecars := 0
	for _, p := range m.Pods(t) {
		pid, ok := p.PIDs["mesh-proxy"]
		if !ok {
			continue
		}
		sidecars++
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"} {
			if !strings.Contains(string(status), want+"\n") {
				t.Errorf("%s: /proc/PID/status lacks %q:\n%s", p.Name, want, status)
			}
		}
		uids, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", pid))
		if err != nil {
			t.Fatal(err)
		}
		var inside, host, n, uid int
		if _, err := fmt.Sscan(string(uids), &inside, &host, &n); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(status)) {
			if _, err := fmt.Sscanf(line, "Uid:\t%d", &uid); err == nil && uid-host+inside != 2102 {
				t.Errorf("%s: uid %d of the pod, want 2102", p.Name, uid-host+inside)
			}
		}
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", pid))
		if err != nil {
			t.Fatal(err)
		}
		root := ""
		for line := range strings.Lines(string(mounts)) {
			if f := strings.Fields(line); len(f) > 3 && f[1] == "/" {
				root = f[3]
			}
		}
		if !strings.HasPrefix(root, "ro,") && root != "ro" {
			t.Errorf("%s: the sidecar's root is mounted %q, want read-only", p.Name, root)
		}
		if own, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)); own == readlink(fmt.Sprintf("/proc/%d/ns/mnt", p.PIDs["app"])) {
			t.Errorf("%s: the sidecar shares the app's mount namespace", p.Name)
		}
		// The default rules are three for IPv4 and two for IPv6.
		for fam, want := range map[string]int{"-4": 3, "-6": 2} {
			out, err := nsenter(pid, "ip", fam, "rule").CombinedOutput()
			if n := strings.Count(string(out), "\n"); err != nil || n != want {
				t.Errorf("%s: ip %s rule: %d lines, want %d: %s %v", p.Name, fam, n, want, out, err)
			}
		}
		for _, table := range []string{"/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"} {
			out, _ := nsenter(pid, "cat", table).CombinedOutput()
			if s := strings.TrimSpace(string(out)); s != "" && !strings.Contains(s, "No such file") {
				t.Errorf("%s: %s: %s", p.Name, table, s)
			}
		}
	}
	if sidecars != 3 {
		t.Errorf("%d sidecars, want 3", sidecars)
	}
}

func readlink(p string) string {
	s, _ := os.Readlink(p)
	return s
}
