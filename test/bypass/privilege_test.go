package bypass_test

import (
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/tunmesh/tunmesh/internal/nettest"
	"github.com/tunmesh/tunmesh/test/meshtest"
)

// TestPrivileges looks at a mesh that is at rest and at its wire: the sidecars
// have no privilege, the pods no rule, and what a capture shows is TLS.
func TestPrivileges(t *testing.T) {
	needRoot(t)
	unmeshed := strings.ReplaceAll(meshtest.Server("bare", 1), "inject: enabled", "inject: disabled")
	m := meshtest.Up(t, bin, "unpriv", meshtest.Server("server", 2), meshtest.Client("client", true, ""), unmeshed, meshtest.Client("outsider", false, ""))
	t.Run("sidecars have no privilege", func(t *testing.T) { testSidecars(t, m) })
	t.Run("sidecars cannot be robbed", func(t *testing.T) { testRobbery(t, m) })
	t.Run("namespaces have no rule", func(t *testing.T) { testRules(t, m) })
	t.Run("a capture holds TLS 1.3 only", func(t *testing.T) { testCapture(t, m) })
}

func testSidecars(t *testing.T, m *meshtest.Mesh) {
	sidecars := 0
	for _, p := range m.Pods(t) {
		pid, ok := p.PIDs["mesh-proxy"]
		if !ok {
			continue
		}
		sidecars++
		status := read(t, "/proc/%d/status", pid)
		for _, want := range []string{
			"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
			"CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2",
		} {
			if !strings.Contains(status, want+"\n") {
				t.Errorf("%s: /proc/PID/status lacks %q:\n%s", p.Name, want, status)
			}
		}
		var inside, host, n int
		if _, err := fmt.Sscan(read(t, "/proc/%d/uid_map", pid), &inside, &host, &n); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprint(host - inside + 2102)
		for _, kind := range []string{"Uid", "Gid"} {
			if ids := fmt.Sprintf("%s:\t%s\t%s\t%s\t%s\n", kind, want, want, want, want); !strings.Contains(status, ids) {
				t.Errorf("%s: want %s 2102 of the pod, %q:\n%s", p.Name, kind, ids, status)
			}
		}
		root := ""
		for line := range strings.Lines(read(t, "/proc/%d/mounts", pid)) {
			if f := strings.Fields(line); len(f) > 3 && f[1] == "/" {
				root = f[3]
			}
		}
		if !strings.HasPrefix(root, "ro,") && root != "ro" {
			t.Errorf("%s: the sidecar's root is mounted %q, want read-only", p.Name, root)
		}
		for _, ns := range []string{"mnt", "pid"} {
			own, app := namespace(t, pid, ns), namespace(t, p.PIDs["app"], ns)
			if own == app {
				t.Errorf("%s: the sidecar shares the app's %s namespace", p.Name, ns)
			}
		}
		// What belongs to a process that may be dumped belongs to its user. That of
		// others belongs to the root of the user namespace that may look into it: the
		// machine's, since the program's file cannot be read in the pod.
		if fi, err := os.Stat(fmt.Sprintf("/proc/%d/mem", pid)); err != nil || fi.Sys().(*syscall.Stat_t).Uid != 0 {
			t.Errorf("%s: the sidecar's memory does not belong to the machine's root: %v %v", p.Name, fi, err)
		}
	}
	if sidecars != 3 {
		t.Errorf("%d sidecars, want 3", sidecars)
	}
}

// testRobbery gives the app's root what it never has, sight of the sidecar's
// process, and lets it try. The app's own process shows that the attempts have
// the power to succeed.
func testRobbery(t *testing.T, m *meshtest.Mesh) {
	p := m.Pod(t, "server")
	grab := func(victim int) string {
		out, err := exec.Command("nsenter", "-t", fmt.Sprint(p.PIDs["app"]), "-U", "--", m.Program("attacker"), "grab",
			"-pid", fmt.Sprint(victim)).CombinedOutput()
		if err != nil || !strings.HasSuffix(string(out), "DONE\n") {
			t.Fatalf("the attacker did not finish: %v: %s", err, out)
		}
		return string(out)
	}
	if out := grab(p.PIDs["app"]); strings.Count(out, "GOT") < 10 {
		t.Errorf("the app's root did not even get into its own process, so this test could not fail: %s", out)
	}
	out := grab(p.PIDs["mesh-proxy"])
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "GOT") {
			t.Error(strings.TrimSpace(line))
		}
	}
	t.Logf("%s", out)
}

func testRules(t *testing.T, m *meshtest.Mesh) {
	holder, err := m.HolderPID()
	if err != nil {
		t.Fatal(err)
	}
	// The pods' namespaces, and the uplinks' (tunmesh-…), by name.
	dir := fmt.Sprintf("/proc/%d/root/run/netns", holder)
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	uplinks, pods := 0, 0
	for _, f := range files {
		if strings.HasPrefix(f.Name(), "tunmesh-") {
			uplinks++
		} else {
			pods++
		}
		s := nettest.Open(t, filepath.Join(dir, f.Name()))
		if tables := s.Filters(); len(tables) != 0 {
			t.Errorf("%s has the packet filters %v", f.Name(), tables)
		}
		// local, main and default; IPv6 has no default.
		if v4, v6 := s.Rules(); v4 != 3 || v6 != 2 {
			t.Errorf("%s has %d and %d routing rules, want 3 and 2", f.Name(), v4, v6)
		}
	}
	if uplinks != 3 || pods != 5 {
		t.Errorf("%d uplinks' and %d pods' namespaces, want 3 and 5", uplinks, pods)
	}
	// And the judge: it sees a table and a rule where there are some.
	s := nettest.New(t, "rules")
	s.Rule("192.0.2.1/32", 77)
	if v4, _ := s.Rules(); v4 != 4 {
		t.Errorf("%d rules with one of our own, want 4: this test could not fail", v4)
	}
	err = s.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "judge"})
		return c.Flush()
	})
	switch tables := s.Filters(); {
	case err != nil:
		t.Logf("this kernel has no nftables, so nobody has rules of it: %v", err)
	case len(tables) != 1:
		t.Errorf("tables %v with one of our own: this test could not fail", tables)
	}
}

// testCapture lets an app say a marker to a meshed Service by HTTP/1.1, HTTP/2,
// gRPC and as bytes, and looks for it in every frame of the node.
func testCapture(t *testing.T, m *meshtest.Mesh) {
	holder, err := m.HolderPID()
	if err != nil {
		t.Fatal(err)
	}
	sniff := newSniffer(t, holder)
	say := func(from, host string, http, grpc, bytes int) []packet {
		sniff.take()
		at := func(port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
		out := m.Exec(t, from, "testapp", "say", marker, "--http", at(http), "--grpc", at(grpc), "--bytes", at(bytes))
		if !strings.Contains(string(out), `"said":true`) {
			t.Fatalf("%s: %s", from, out)
		}
		time.Sleep(200 * time.Millisecond) // what is on its way
		return sniff.take()
	}
	kinds := []string{"http1", "http2", "grpc", "bytes"}
	// A pod without a sidecar knows no Services here, hence addresses.
	bare := m.Pod(t, "bare")
	for _, ip := range bare.IPs {
		plain := say("outsider", ip, 8080, 8081, 7000)
		for _, k := range kinds {
			if countMarked(plain, marker+"-"+k) == 0 {
				t.Errorf("between unmeshed pods, by %s, %s was not seen in the clear: this test could not fail", ip, k)
			}
		}
		if err := allTLS13(flows(plain, m.Pod(t, "outsider").IPs, bare.IPs)); err == nil {
			t.Error("the unmeshed pods' streams count as TLS 1.3: this test could not fail")
		}
	}
	seen := say("client", "server.default.svc.cluster.local", 80, 8081, 7000)
	// And to one of the pods by each of its addresses.
	server := m.Pod(t, "server")
	for _, ip := range server.IPs {
		seen = append(seen, say("client", ip, 8080, 8081, 7000)...)
	}
	if n := countMarked(seen, marker); n != 0 {
		t.Errorf("%d frames hold the marker in the clear", n)
	}
	var servers []string
	for _, p := range m.Pods(t) {
		if strings.HasPrefix(p.Name, "server-") {
			servers = append(servers, p.IPs...)
		}
	}
	streams := flows(seen, m.Pod(t, "client").IPs, servers)
	if err := allTLS13(streams); err != nil {
		t.Error(err)
		for f, b := range streams {
			t.Logf("%v to %v: %d bytes, % .48x", f.from, f.to, len(b), b)
		}
	}
	total := 0
	for _, s := range streams {
		total += len(s)
	}
	if len(streams) < 4 || total < 4096 {
		t.Errorf("%d streams with %d bytes between client and servers: the marker went another way?", len(streams), total)
	}
	for _, ip := range server.IPs {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(streams)), func(f flow) bool { return f.to.Addr().String() == ip }) {
			t.Errorf("no connection to %s was seen", ip)
		}
	}
	t.Logf("%d frames; %d directions of connections between the meshed pods, %d bytes, all TLS 1.3", len(seen), len(streams), total)
}

func countMarked(seen []packet, m string) (n int) {
	for _, p := range seen {
		if strings.Contains(string(p.bytes), m) {
			n++
		}
	}
	return n
}

func namespace(t *testing.T, pid int, kind string) string {
	t.Helper()
	s, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func read(t *testing.T, format string, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf(format, pid))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
