package hold_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/test/cluster/internal/fabric"
	"github.com/tunmesh/tunmesh/test/cluster/internal/hold"
	"github.com/tunmesh/tunmesh/test/cluster/internal/layout"
	"github.com/tunmesh/tunmesh/test/cluster/internal/supervise"
	"github.com/tunmesh/tunmesh/test/cluster/internal/untouched"
	"github.com/tunmesh/tunmesh/test/cluster/programs"
)

// These tests run all of the harness but Kubernetes: programs that only wait
// stand for it, so that the life and the end of a cluster take seconds.

// waits is a program that says how it was called, and waits.
const waits = "#!/bin/sh\necho \"$0 $*\"\nexec sleep 100000\n"

// machine is a cluster without Kubernetes.
type machine struct {
	layout.Cluster
	hold *exec.Cmd
	word io.WriteCloser
	said *bufio.Scanner
}

func start(t *testing.T, nodes int) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: runs machines in namespaces")
	}
	bin := t.TempDir()
	own := exec.CommandContext(t.Context(), "go", "build", "-o", bin+"/", "../../cmd/cluster")
	own.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := own.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, text := range map[string]string{"kubernetes": waits, "containerd": waits, "ctr": "#!/bin/sh\n", "runc": "#!/bin/sh\n", "cni/bridge": "#!/bin/sh\n"} {
		file := filepath.Join(bin, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", hold.Prefix) // sockets bear no test's long name
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{Cluster: layout.Cluster{
		Dir: dir, Nodes: nodes, DualStack: true, Group: filepath.Base(dir),
		Programs: programs.Set{Kubernetes: filepath.Join(bin, "kubernetes"), Containerd: bin, Runc: filepath.Join(bin, "runc"), CNI: filepath.Join(bin, "cni"), Own: bin},
	}}
	t.Cleanup(func() {
		m.logs(t)
		if err := hold.Remove(m.Cluster, true); err != nil {
			t.Error(err)
		}
	})
	for _, d := range []string{m.Logs(), m.Node(1).Dir(), m.Node(2).Dir()} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Save(); err != nil {
		t.Fatal(err)
	}
	m.run(t)
	return m
}

// run starts the holder, and waits for the nodes.
func (m *machine) run(t *testing.T) {
	t.Helper()
	lock, err := hold.Claim(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	m.hold = exec.Command(m.Self(), "hold", m.Dir)
	m.hold.ExtraFiles = []*os.File{lock}
	m.hold.Stderr = t.Output()
	m.hold.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if m.word, err = m.hold.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := m.hold.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.said = bufio.NewScanner(out)
	if err := m.hold.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.word.Close() })
	for _, n := range m.AllNodes() {
		m.booted(t, n)
	}
}

// booted waits for a node's last program.
func (m *machine) booted(t *testing.T, n layout.Node) {
	t.Helper()
	until(t, n.Name()+" has booted", func() error {
		all, err := supervise.Client{Path: n.Control()}.Statuses(t.Context())
		if i := slices.IndexFunc(all, func(s supervise.Status) bool { return s.Name == "kube-proxy" && s.PID != 0 }); err == nil && i < 0 {
			return fmt.Errorf("there are %v", all)
		}
		return err
	})
}

func (m *machine) logs(t *testing.T) {
	if !t.Failed() {
		return
	}
	files, _ := filepath.Glob(filepath.Join(m.Logs(), "*"))
	for _, f := range files {
		raw, _ := os.ReadFile(f)
		t.Logf("%s: %s", filepath.Base(f), raw)
	}
}

func until(t *testing.T, what string, cond func() error) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// processes are those of the machine, by their arguments or their network.
func (m *machine) processes(t *testing.T) (out []string) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		args, _ := os.ReadFile(filepath.Join(d, "cmdline"))
		env, _ := os.ReadFile(filepath.Join(d, "environ"))
		if strings.Contains(string(args), m.Dir) || strings.Contains(string(env), m.Programs.Containerd) {
			out = append(out, filepath.Base(d)+" "+strings.ReplaceAll(string(args), "\x00", " "))
		}
	}
	return out
}

func (m *machine) groups() []string {
	found, _ := filepath.Glob("/sys/fs/cgroup/*/" + m.Group + "*")
	more, _ := filepath.Glob("/sys/fs/cgroup/" + m.Group + "*")
	return append(found, more...)
}

// gone waits for the end of all processes.
func (m *machine) gone(t *testing.T) {
	t.Helper()
	until(t, "all processes have ended", func() error {
		if left := m.processes(t); len(left) > 0 {
			return errors.New(strings.Join(left, "\n"))
		}
		return nil
	})
}

// left are the files of the cluster's folder, but the lock, and the cgroups.
func (m *machine) left(t *testing.T) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(m.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "lock" {
			out = append(out, e.Name())
		}
	}
	return append(out, m.groups()...)
}

// pid finds a process of the harness by what it was started as.
func (m *machine) pid(t *testing.T, what string) int {
	t.Helper()
	for _, p := range m.processes(t) {
		pid, args, _ := strings.Cut(p, " ")
		if n, err := strconv.Atoi(pid); err == nil && strings.HasPrefix(args, m.Self()+" "+what+" ") {
			return n
		}
	}
	t.Fatalf("no %s in %v", what, m.processes(t))
	return 0
}

// surroundings are what a cluster must leave alone.
func surroundings(t *testing.T) []string {
	t.Helper()
	return untouched.State(t, "/etc/cni", "/opt/cni", "/var/lib/kubelet", "/var/lib/containerd", "/var/lib/cni", "/run/containerd")
}

func TestMachinesInNamespaces(t *testing.T) {
	before := surroundings(t)
	m := start(t, 2)
	if n := len(m.processes(t)); n < 8 || len(m.groups()) == 0 {
		t.Errorf("the checks themselves: %v, %v", m.processes(t), m.groups())
	}
	if d := cmp.Diff(before, surroundings(t)); d != "" {
		t.Errorf("the machine changed: %s", d)
	}
	t.Run("a node sees itself", func(t *testing.T) { m.testNode(t) })
	t.Run("reboot", func(t *testing.T) { m.testReboot(t) })
	if _, err := io.WriteString(m.word, hold.Clean); err != nil {
		t.Fatal(err)
	}
	m.word.Close()
	if err := m.hold.Wait(); err != nil {
		t.Error(err)
	}
	m.gone(t)
	if _, err := os.Stat(m.Dir); !errors.Is(err, os.ErrNotExist) || len(m.groups()) > 0 {
		t.Errorf("left: %v, %v", m.left(t), err)
	}
	if d := cmp.Diff(before, surroundings(t)); d != "" {
		t.Errorf("the machine changed: %s", d)
	}
}

// on runs a command on a node.
func (m *machine) on(t *testing.T, n layout.Node, script string) string {
	t.Helper()
	pid, err := supervise.Client{Path: n.Control()}.PID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--target", strconv.Itoa(pid), "--mount", "--net", "--pid", "--uts", "--ipc", "--root", "--wd", "--", "sh", "-c", script}
	out, err := exec.CommandContext(t.Context(), "nsenter", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (m *machine) testNode(t *testing.T) {
	n := m.Node(1)
	for script, want := range map[string]string{
		"hostname":                                     "node1",
		"ls /sys/class/net":                            "eth0\nlo",
		"cat /proc/sys/kernel/panic":                   "10",
		"stat -c %a,%t,%T /dev/net/tun":                "666,a,c8",
		"touch /usr/x 2>/dev/null || echo no":          "no",
		"ls /etc/cni/net.d /opt/cni/bin":               "/etc/cni/net.d:\n10-cluster.conflist\n\n/opt/cni/bin:\nbridge",
		"ip route show 10.244.2.0/24":                  "10.244.2.0/24 via 172.18.0.12 dev eth0",
		"ip -6 route show fd00:10:244:2::/64":          "fd00:10:244:2::/64 via fd00:172:18::12 dev eth0 metric 1024 pref medium",
		"echo mine >/var/lib/x; cat /var/lib/x":        "mine",
		"stat -c %a /tmp":                              "1777",
		"mount -t proc proc /mnt 2>&1; umount /mnt":    "",
		"unshare -Ufr --mount --pid --mount-proc true": "", // what runc does for hostUsers: false
	} {
		if got := m.on(t, n, "mkdir -p /mnt; "+script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	if raw, err := os.ReadFile(n.Disk("/var/lib/x")); err != nil || string(raw) != "mine\n" {
		t.Errorf("the node's file on the machine: %q, %v", raw, err)
	}
	if _, err := os.Stat("/var/lib/x"); !errors.Is(err, os.ErrNotExist) {
		t.Error("the node's file is the machine's")
	}
}

func (m *machine) testReboot(t *testing.T) {
	n, power := m.Node(1), supervise.Client{Path: m.Control()}
	m.on(t, n, "touch /run/x /var/lib/y; mkdir -p /run/netns; ip netns add left; setsid sleep 4321 </dev/null >/dev/null 2>&1 &")
	old, err := supervise.Client{Path: n.Control()}.PID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := power.Do(t.Context(), "kill", n.Name()); err != nil {
		t.Fatal(err)
	}
	until(t, "the node is off", func() error {
		for _, p := range m.processes(t) {
			if strings.Contains(p, "sleep 4321") || strings.Contains(p, n.Dir()) {
				return errors.New(p)
			}
		}
		return nil
	})
	if err := power.Do(t.Context(), "start", n.Name()); err != nil {
		t.Fatal(err)
	}
	m.booted(t, n)
	if now, err := (supervise.Client{Path: n.Control()}).PID(t.Context()); err != nil || now == old {
		t.Errorf("process %d, then %d, %v", old, now, err)
	}
	if got := m.on(t, n, "ls /run/x /run/netns/left 2>/dev/null; ls /var/lib/y; ip -4 -o addr show eth0 | grep -c 172.18.0.11"); got != "/var/lib/y\n1" {
		t.Errorf("after the reboot there is %q", got)
	}
}

// An owner that is killed says nothing: the kernel closes its end of the pipe.
func TestOwnerDies(t *testing.T) {
	m := start(t, 1)
	m.word.Close()
	if err := m.hold.Wait(); err != nil {
		t.Error(err)
	}
	m.gone(t)
	if got := m.left(t); !slices.Equal(got, []string{"logs"}) {
		t.Errorf("left: %v", got)
	}
}

func TestHolderDies(t *testing.T) {
	m := start(t, 1)
	if err := unix.Kill(m.pid(t, "hold"), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = m.hold.Wait() // killed
	m.gone(t)
	if len(m.left(t)) < 3 {
		t.Errorf("the check itself: nothing was left to be swept: %v", m.left(t))
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(m.Dir, old, old); err != nil {
		t.Fatal(err)
	}
	if errs := hold.Sweep(filepath.Dir(m.Dir)); len(errs) > 0 {
		t.Error(errs)
	}
	if got := m.left(t); !slices.Equal(got, []string{"logs"}) {
		t.Errorf("left: %v", got)
	}
}

func TestFirstProcessDies(t *testing.T) {
	m := start(t, 1)
	if err := unix.Kill(m.pid(t, "fabric"), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var last fabric.Report
	for m.said.Scan() {
		if err := json.Unmarshal(m.said.Bytes(), &last); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(last.Err, "first process ended") {
		t.Errorf("the owner was told %+v", last)
	}
	if err := m.hold.Wait(); err == nil {
		t.Error("the holder ended as if all was well")
	}
	m.gone(t)
	if got := m.left(t); !slices.Equal(got, []string{"logs"}) {
		t.Errorf("left: %v", got)
	}
}
