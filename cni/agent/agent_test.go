package agent_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/cni/agent"
	"github.com/tunmesh/tunmesh/cni/broker"
	"github.com/tunmesh/tunmesh/cni/keeper"
	"github.com/tunmesh/tunmesh/internal/handover"
	"github.com/tunmesh/tunmesh/internal/nettest"
)

// The test binary is also the agent, its keeper and the sidecar.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "keeper" {
		_ = os.WriteFile(os.Args[2]+".pid", fmt.Append(nil, os.Getpid()), 0o600)
		_ = keeper.NewServer(slog.New(slog.DiscardHandler)).Run(context.Background(), os.Args[2])
		return
	}
	switch os.Getenv("AGENT_TEST_ROLE") {
	case "agent":
		fmt.Println(agent.Run(context.Background(), config(os.Getenv("AGENT_TEST_DIR"))))
		return
	case "sidecar":
		sidecar()
		return
	}
	os.Exit(nettest.Contain(m.Run))
}

func config(dir string) agent.Config {
	return agent.Config{
		Dir: dir, Node: "n1", TrustAnchorsFile: filepath.Join(dir, "anchors.pem"),
		Control: "10.244.0.1:8086", ControlID: "spiffe://cluster.local/ns/tunmesh/sa/mesh-control",
		KeeperCommand: []string{"/proc/self/exe", "keeper"}, Version: "test", Log: slog.New(slog.DiscardHandler),
	}
}

func sidecar() {
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	h, err := handover.Receive(ctx, handover.Address)
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	fmt.Println("got:", len(h.App), len(h.Wire), h.Message.TrustAnchors)
	go h.Hold(context.Background(), slog.New(slog.DiscardHandler))
	_, _ = io.Copy(io.Discard, os.Stdin)
}

type proc struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (p *proc) kill() { _ = p.Process.Kill(); _ = p.Wait() }

func role(t *testing.T, name, dir string, flags uintptr, netns string) *proc {
	t.Helper()
	p := &proc{Cmd: exec.Command("/proc/self/exe")}
	p.Env = append(os.Environ(), "AGENT_TEST_ROLE="+name, "AGENT_TEST_DIR="+dir)
	p.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	var err error
	if p.in, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	start := p.Start
	if netns != "" {
		start = func() error { return ns.WithNetNSPath(netns, func(ns.NetNS) error { return p.Start() }) }
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

func (p *proc) line() string { s, _ := p.out.ReadString('\n'); return strings.TrimSpace(s) }

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for range 1000 {
		if cond() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("not within 10 s: %s", what)
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

type node struct {
	dir, p, u string
	agent     *proc
	c         broker.Client
}

func newNode(t *testing.T) *node {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes network namespaces and TUN devices")
	}
	n := &node{dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(n.dir, "anchors.pem"), []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, dev := range []string{"eth0", "wire0"} {
		name := fmt.Sprintf("tmagent-%d-%d", os.Getpid(), i)
		ip(t, "netns", "add", name)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
		ip(t, "netns", "exec", name, "ip", "tuntap", "add", dev, "mode", "tun", "vnet_hdr", "multi_queue")
		ip(t, "-n", name, "link", "set", dev, "up")
		if i == 0 {
			n.p = "/run/netns/" + name
		} else {
			n.u = "/run/netns/" + name
		}
	}
	n.c = broker.Client{Path: filepath.Join(n.dir, agent.SocketName)}
	t.Cleanup(func() { n.killKeeper() })
	n.start(t)
	if err := n.c.Attach(t.Context(), broker.AttachRequest{
		Sandbox: "sb", Pod: handover.Pod{Namespace: "default", Name: "web"}, AppNetns: n.p, WireNetns: n.u,
		AppDevice: "eth0", WireDevice: "wire0", Addrs: []netip.Addr{netip.MustParseAddr("10.244.0.2")}, MTU: 1500, Queues: 1,
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) start(t *testing.T) {
	t.Helper()
	n.agent = role(t, "agent", n.dir, 0, "")
	eventually(t, "the agent answers", func() bool { _, err := n.c.Status(t.Context()); return err == nil })
}

func (n *node) killKeeper() {
	raw, err := os.ReadFile(filepath.Join(n.dir, "keeper.sock.pid"))
	if err != nil {
		return
	}
	var pid int
	if _, err := fmt.Sscan(string(raw), &pid); err == nil {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

func (n *node) held(t *testing.T) bool {
	p, err := n.c.Pods(t.Context())
	return err == nil && len(p) == 1 && p[0].Held
}

// sidecar starts one whose container is registered before it asks.
func (n *node) sidecar(t *testing.T) *proc {
	t.Helper()
	s := role(t, "sidecar", n.dir, syscall.CLONE_NEWPID, n.p)
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/pid", s.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := n.c.Register(t.Context(), "sb", fd); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(s.in, "go\n"); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAgentKilledUnderASidecarThenTheSidecar(t *testing.T) {
	n := newNode(t)
	s := n.sidecar(t)
	if got := s.line(); got != "got: 1 1 first" {
		t.Fatal(got)
	}
	n.agent.kill()
	if err := os.WriteFile(filepath.Join(n.dir, "anchors.pem"), []byte("second"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.start(t)
	eventually(t, "the sidecar claims its queues again", func() bool { return n.held(t) })
	s.kill()
	s = n.sidecar(t)
	if got := s.line(); got != "got: 1 1 second" {
		t.Fatalf("after the agent and the sidecar were killed: %s", got)
	}
}

func TestSidecarStartsWhileTheAgentIsAway(t *testing.T) {
	n := newNode(t)
	s := n.sidecar(t)
	if got := s.line(); got != "got: 1 1 first" {
		t.Fatal(got)
	}
	s.kill()
	// Registered, then the agent dies before the sidecar asks.
	s = role(t, "sidecar", n.dir, syscall.CLONE_NEWPID, n.p)
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/pid", s.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := n.c.Register(t.Context(), "sb", fd); err != nil {
		t.Fatal(err)
	}
	n.agent.kill()
	_, _ = io.WriteString(s.in, "go\n")
	time.Sleep(200 * time.Millisecond)
	n.start(t)
	if got := s.line(); got != "got: 1 1 first" {
		t.Fatal(got)
	}
}

func TestKeeperKilledUnderASidecar(t *testing.T) {
	n := newNode(t)
	s := n.sidecar(t)
	if got := s.line(); got != "got: 1 1 first" {
		t.Fatal(got)
	}
	n.killKeeper()
	held := func() bool {
		k, err := keeper.Dial(t.Context(), filepath.Join(n.dir, "keeper.sock"))
		if err != nil {
			return false
		}
		defer k.Close()
		names, err := k.List()
		return err == nil && len(names) == 3
	}
	eventually(t, "queues, listener and registration are held by a new keeper", held)
	// And they are the real ones: everything else dies, the next sidecar gets them.
	n.agent.kill()
	s.kill()
	n.start(t)
	if got := n.sidecar(t).line(); got != "got: 1 1 first" {
		t.Fatal(got)
	}
}

func TestBadConfig(t *testing.T) {
	good := config(t.TempDir())
	for name, change := range map[string]func(*agent.Config){
		"dir":     func(c *agent.Config) { c.Dir = "" },
		"anchors": func(c *agent.Config) { c.TrustAnchorsFile = "" },
		"control": func(c *agent.Config) { c.Control = "10.244.0.1" },
		"id":      func(c *agent.Config) { c.ControlID = "mesh-control" },
		"keeper":  func(c *agent.Config) { c.KeeperCommand = nil },
	} {
		c := good
		change(&c)
		if err := agent.Run(t.Context(), c); err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
