package broker_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/cni/broker"
	"github.com/tunmesh/tunmesh/cni/keeper"
	"github.com/tunmesh/tunmesh/internal/handover"
	"github.com/tunmesh/tunmesh/internal/nettest"
)

// The test binary is also the sidecar, the app and the keeper.
func TestMain(m *testing.M) {
	switch os.Getenv("BROKER_TEST_ROLE") {
	case "sidecar":
		sidecar()
		return
	case "keeper":
		_ = keeper.NewServer(slog.New(slog.DiscardHandler)).Run(context.Background(), os.Getenv("BROKER_TEST_SOCKET"))
		return
	}
	os.Exit(nettest.Contain(m.Run))
}

// sidecar asks for queues and says what it got, then holds until stdin closes.
func sidecar() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	h, err := handover.Receive(ctx, handover.Address)
	var refused *handover.RefusedError
	switch {
	case errors.As(err, &refused):
		fmt.Println("refused:", refused.Reason)
		return
	case err != nil:
		fmt.Println("error:", err)
		return
	}
	fmt.Println("got:", len(h.App), len(h.Wire), h.Message.Pod.Name, h.Message.ControlID)
	hctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); h.Hold(hctx, slog.New(slog.DiscardHandler)) }()
	_, _ = io.Copy(io.Discard, os.Stdin)
	stop()
	<-done
}

type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   *bufio.Scanner
}

// start runs a role in the network namespace, in a new PID namespace or not.
func start(t *testing.T, role, netns string, cloneflags uintptr, env ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command("/proc/self/exe")}
	p.cmd.Env = append(os.Environ(), append(env, "BROKER_TEST_ROLE="+role)...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: cloneflags, Pdeathsig: syscall.SIGKILL}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin, p.out = in, bufio.NewScanner(out)
	p.cmd.Stderr = os.Stderr
	run := p.cmd.Start
	if netns != "" {
		run = func() error { return ns.WithNetNSPath(netns, func(ns.NetNS) error { return p.cmd.Start() }) }
	}
	// Pdeathsig is of the thread that forks.
	runtime.LockOSThread()
	err = run()
	runtime.UnlockOSThread()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func (p *process) line(t *testing.T) string {
	t.Helper()
	got := make(chan string, 1)
	go func() {
		if p.out.Scan() {
			got <- p.out.Text()
		} else {
			got <- "(ended)"
		}
	}()
	select {
	case s := <-got:
		return s
	case <-time.After(10 * time.Second):
		t.Fatal("the process says nothing for 10 s")
		return ""
	}
}

// world is a pod's two namespaces with TUNs, a keeper and a broker.
type world struct {
	app, wire string
	dir       string
	keeper    *process
	hold      *keeper.Client
	reg       *broker.Registry
	b         *broker.Broker
	req       broker.AttachRequest
}

const sandbox = "0123456789abcdef"

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes network namespaces and TUN devices")
	}
	w := &world{dir: t.TempDir()}
	w.app, w.wire = netns(t, "p"), netns(t, "u")
	tun(t, w.app, "eth0")
	tun(t, w.wire, "wire0")
	w.startKeeper(t)
	w.req = broker.AttachRequest{
		Sandbox: sandbox, Pod: handover.Pod{Namespace: "default", Name: "web", UID: "u1"},
		AppNetns: w.app, WireNetns: w.wire, AppDevice: "eth0", WireDevice: "wire0",
		Addrs: []netip.Addr{netip.MustParseAddr("10.244.0.2")}, MTU: 1500, Queues: 1,
	}
	w.startBroker(t)
	return w
}

func (w *world) startKeeper(t *testing.T) {
	t.Helper()
	path := filepath.Join(w.dir, "k.sock")
	w.keeper = start(t, "keeper", "", 0, "BROKER_TEST_SOCKET="+path)
	w.dialKeeper(t)
}

func (w *world) dialKeeper(t *testing.T) {
	t.Helper()
	eventually(t, func() bool {
		c, err := keeper.Dial(t.Context(), filepath.Join(w.dir, "k.sock"))
		w.hold = c
		return err == nil
	})
}

func (w *world) startBroker(t *testing.T) {
	t.Helper()
	dir := filepath.Join(w.dir, "pods")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.reg = broker.NewRegistry(w.hold)
	w.b = broker.New(broker.Config{
		StateDir: dir, Containers: w.reg, Holder: w.hold, Log: slog.New(slog.DiscardHandler),
		Mesh: func() (broker.Mesh, error) {
			return broker.Mesh{Node: "n", TrustAnchors: "PEM", Control: []netip.AddrPort{netip.MustParseAddrPort("[fd00::1]:8086"), netip.MustParseAddrPort("10.244.0.1:8086")}, ControlID: "spiffe://cluster.local/ns/tunmesh/sa/mesh-control"}, nil
		},
	})
	t.Cleanup(w.b.Close)
}

// restartBroker is an agent's death and return: only the keeper remains.
func (w *world) restartBroker(t *testing.T) {
	t.Helper()
	w.b.Close()
	_ = w.hold.Close()
	w.dialKeeper(t)
	w.startBroker(t)
	if err := w.b.Restore(t.Context(), w.reg.Restore); err != nil {
		t.Fatal(err)
	}
}

func (w *world) register(t *testing.T, p *process) {
	t.Helper()
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/pid", p.cmd.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := w.reg.Register(sandbox, fd); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	for range 3000 {
		if cond() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("condition not met within 30 s")
}

func netns(t *testing.T, kind string) string {
	t.Helper()
	name := fmt.Sprintf("tmbroker-%d-%s", os.Getpid(), kind)
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Fatalf("ip netns add: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	return "/run/netns/" + name
}

func tun(t *testing.T, path, name string) {
	t.Helper()
	n := filepath.Base(path)
	for _, args := range [][]string{
		{"netns", "exec", n, "ip", "tuntap", "add", name, "mode", "tun", "vnet_hdr", "multi_queue"},
		{"-n", n, "link", "set", name, "up"}, {"-n", n, "link", "set", "lo", "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
}

const newPID = syscall.CLONE_NEWPID

func TestHandOverOnlyToTheSidecarsContainer(t *testing.T) {
	w := newWorld(t)
	if err := w.b.Attach(w.req); err != nil {
		t.Fatal(err)
	}
	unknown := start(t, "sidecar", w.app, newPID)
	if got := unknown.line(t); !strings.Contains(got, "refused:") || !strings.Contains(got, "not registered") {
		t.Errorf("before registration: %s", got)
	}

	side := w.registered(t)
	if got := side.line(t); got != "got: 1 1 web spiffe://cluster.local/ns/tunmesh/sa/mesh-control" {
		t.Fatalf("sidecar: %s", got)
	}
	app := start(t, "sidecar", w.app, newPID)
	if got := app.line(t); !strings.Contains(got, "not in the sidecar's container") {
		t.Errorf("an app in another PID namespace: %s", got)
	}
	host := start(t, "sidecar", w.app, 0)
	if got := host.line(t); !strings.Contains(got, "not in the sidecar's container") {
		t.Errorf("a process of the node's PID namespace: %s", got)
	}
	if p := w.b.Pods(); len(p) != 1 || !p[0].Held {
		t.Errorf("pods: %+v", p)
	}
}

// registered starts a sidecar that is registered before it asks: its process
// is stopped by a pipe in a shell that is the first of the PID namespace.
func (w *world) registered(t *testing.T) *process {
	t.Helper()
	p := &process{}
	r, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command("/bin/sh", "-c", `read x <&3; exec 3<&-; exec "$0"`, exe)
	p.cmd.ExtraFiles = []*os.File{r}
	p.cmd.Env = append(os.Environ(), "BROKER_TEST_ROLE=sidecar")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: newPID}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin, p.out = in, bufio.NewScanner(out)
	if err := ns.WithNetNSPath(w.app, func(ns.NetNS) error { return p.cmd.Start() }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	r.Close()
	w.register(t, p)
	if _, err := wr.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	wr.Close()
	return p
}

func mustGot(t *testing.T, p *process) {
	t.Helper()
	if got := p.line(t); !strings.HasPrefix(got, "got: 1 1") {
		t.Fatalf("sidecar: %s", got)
	}
}

func TestKilledSidecarIsFollowedByTheNext(t *testing.T) {
	w := newWorld(t)
	if err := w.b.Attach(w.req); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		p := w.registered(t)
		mustGot(t, p)
		p.kill()
	}
}

// Processes of the app, with the sidecar's uid and in PID namespaces of their
// own, ask without rest while the sidecar is killed a thousand times: none of
// their namespaces ever passes for the registered one, although the kernel
// gives numbers out again.
func TestAppNeverGetsQueuesThroughAThousandKills(t *testing.T) {
	w := newWorld(t)
	if err := w.b.Attach(w.req); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var refusals atomic.Int64
	var apps sync.WaitGroup
	for range 4 {
		apps.Go(func() {
			for ctx.Err() == nil && !t.Failed() {
				cmd := exec.Command("/proc/self/exe")
				cmd.Env = append(os.Environ(), "BROKER_TEST_ROLE=sidecar")
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: newPID, Credential: &syscall.Credential{Uid: 2102, Gid: 2102}}
				var out []byte
				err := ns.WithNetNSPath(w.app, func(ns.NetNS) (err error) { out, err = cmd.Output(); return err })
				if err != nil || !strings.HasPrefix(string(out), "refused:") {
					t.Errorf("an app got: %s (%v)", out, err)
					return
				}
				refusals.Add(1)
			}
		})
	}
	defer apps.Wait()
	defer stop()
	kills := 1000
	if testing.Short() {
		kills = 50
	}
	for i := range kills {
		p := w.registered(t)
		mustGot(t, p)
		p.kill()
		// However the machine shares itself out, an app was answered in each
		// stretch of ten kills; while it waits, the sidecar is away.
		if want := int64(i / 10); refusals.Load() < want {
			eventually(t, func() bool { return refusals.Load() >= want || t.Failed() })
		}
	}
	t.Logf("%d kills, %d refusals", kills, refusals.Load())
}

func TestAgentRestartKeepsQueuesAndName(t *testing.T) {
	w := newWorld(t)
	if err := w.b.Attach(w.req); err != nil {
		t.Fatal(err)
	}
	p := w.registered(t)
	mustGot(t, p)

	w.b.Close()
	// Nobody accepts now, but the name is not free.
	err := ns.WithNetNSPath(w.app, func(ns.NetNS) error {
		l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: handover.Address, Net: "unixpacket"})
		if err == nil {
			l.Close()
		}
		return err
	})
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("bind the broker's name while the agent is away: %v, want EADDRINUSE", err)
	}
	w.restartBroker(t)
	eventually(t, func() bool { p := w.b.Pods(); return len(p) == 1 && p[0].Held })

	// Both die; the next sidecar gets the same queues.
	p.kill()
	w.restartBroker(t)
	mustGot(t, w.registered(t))
}

func TestKeeperDeathIsHealedBySidecar(t *testing.T) {
	w := newWorld(t)
	if err := w.b.Attach(w.req); err != nil {
		t.Fatal(err)
	}
	p := w.registered(t)
	mustGot(t, p)
	w.keeper.kill()
	w.b.Close()
	w.startKeeper(t)
	w.startBroker(t)
	if err := w.b.Restore(t.Context(), w.reg.Restore); err != nil {
		t.Fatal(err)
	}
	// The registration was lost with the keeper, so the runtime tells it again.
	w.register(t, p)
	eventually(t, func() bool {
		fds, err := w.hold.Get(sandbox + "/queues")
		for _, fd := range fds {
			unix.Close(fd)
		}
		return err == nil && len(fds) == 2
	})
}

func TestNeverBesideALiveQueue(t *testing.T) {
	w := newWorld(t)
	if err := w.b.Attach(w.req); err != nil {
		t.Fatal(err)
	}
	other := w.req
	other.Sandbox = "other"
	if err := w.b.Attach(other); err == nil || !strings.Contains(err.Error(), "still attached") {
		t.Fatalf("attach beside a live queue: %v", err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "pods", "other.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed attach left its state file: %v", err)
	}
}

func TestReleaseIsIdempotentAndFreesEverything(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		if err := w.b.Attach(w.req); err != nil {
			t.Fatal(err)
		}
		if err := w.b.Attach(w.req); err != nil {
			t.Fatalf("the same attach again: %v", err)
		}
		for range 2 {
			if err := w.b.Release(sandbox); err != nil {
				t.Fatal(err)
			}
		}
		if names, err := w.hold.List(); err != nil || len(names) != 0 {
			t.Fatalf("held after release: %v, %v", names, err)
		}
	}
}

func TestRestoreReleasesPodsThatAreGoneAndKeepsGarbage(t *testing.T) {
	w := newWorld(t)
	if err := w.b.Attach(w.req); err != nil {
		t.Fatal(err)
	}
	garbage := filepath.Join(w.dir, "pods", "garbage.json")
	if err := os.WriteFile(garbage, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	gone := w.req
	gone.Sandbox, gone.WireNetns = "gone", "/run/netns/tmbroker-none"
	raw, _ := json.Marshal(gone)
	if err := os.WriteFile(filepath.Join(w.dir, "pods", "gone.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	w.restartBroker(t)
	if p := w.b.Pods(); len(p) != 1 || p[0].Sandbox != sandbox {
		t.Errorf("pods: %+v", p)
	}
	if _, err := os.Stat(garbage); err != nil {
		t.Errorf("an unreadable state file was removed: %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*broker.AttachRequest){
		"no id":       func(r *broker.AttachRequest) { r.Sandbox = "" },
		"path id":     func(r *broker.AttachRequest) { r.Sandbox = "../x" },
		"no device":   func(r *broker.AttachRequest) { r.WireDevice = "" },
		"no address":  func(r *broker.AttachRequest) { r.Addrs = nil },
		"small mtu":   func(r *broker.AttachRequest) { r.MTU = 100 },
		"many queues": func(r *broker.AttachRequest) { r.Queues = 9 },
		"no netns":    func(r *broker.AttachRequest) { r.AppNetns = "/run/netns/none" },
	} {
		r := w.req
		change(&r)
		if err := w.b.Attach(r); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if p := w.b.Pods(); len(p) != 0 {
		t.Errorf("pods after refused requests: %+v", p)
	}
	fd, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := w.reg.Register(sandbox, fd); err == nil {
		t.Error("a network namespace was registered as a PID namespace")
	}
	own, err := unix.Open("/proc/self/ns/pid", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(own)
	if err := w.reg.Register(sandbox, own); err == nil {
		t.Error("the agent's own PID namespace was registered")
	}
}

func TestServerAndClient(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, "agent.sock")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	s := &broker.Server{Broker: w.b, Registry: w.reg, Version: "v1", Log: slog.New(slog.DiscardHandler)}
	go func() { done <- s.Run(ctx, path) }()
	c := broker.Client{Path: path}
	eventually(t, func() bool { v, err := c.Status(t.Context()); return err == nil && v == "v1" })
	if err := c.Attach(t.Context(), w.req); err != nil {
		t.Fatal(err)
	}
	if p, err := c.Pods(t.Context()); err != nil || len(p) != 1 {
		t.Errorf("pods: %v %v", p, err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v", fi, err)
	}
	if err := c.Release(t.Context(), sandbox); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("status of no agent: %v", err)
	}
}
