package plugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/cni/broker"
	"github.com/tunmesh/tunmesh/cni/plugin"
	"github.com/tunmesh/tunmesh/internal/annotation"
	"github.com/tunmesh/tunmesh/internal/nettest"
)

// The test binary is the plugin too, when it is called by the plugin's name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == plugin.Type {
		os.Exit(plugin.Main(context.Background(), plugin.Config{
			Agent:   func(socket string) plugin.Agent { return broker.Client{Path: socket} },
			Log:     slog.New(slog.NewTextHandler(os.Stderr, nil)),
			Version: "test",
		}))
	}
	os.Exit(nettest.Contain(m.Run))
}

const within = 10 * time.Second

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// world is a node with the reference plugins and ours.
type world struct {
	*nettest.Space
	t   *testing.T
	dir string
	cni *libcni.CNIConfig
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Space: nettest.New(t, "node"), t: t, dir: t.TempDir()}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(w.dir, "bin")
	for _, d := range []string{bin, w.netnsDir(), w.stateDir()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(exe, filepath.Join(bin, plugin.Type)); err != nil {
		t.Fatal(err)
	}
	w.cni = libcni.NewCNIConfigWithCacheDir([]string{nettest.CNIPlugins(t), bin}, filepath.Join(w.dir, "cache"), nil)
	w.Sysctl("net/ipv4/ip_forward", "1")
	w.Sysctl("net/ipv6/conf/all/forwarding", "1")
	t.Cleanup(w.sweep)
	return w
}

// sweep unmounts what a failed test left.
func (w *world) sweep() {
	left, _ := filepath.Glob(filepath.Join(w.netnsDir(), "*"))
	for _, f := range left {
		_ = unix.Unmount(f, unix.MNT_DETACH)
	}
}

func (w *world) stateDir() string { return filepath.Join(w.dir, "state") }
func (w *world) netnsDir() string { return filepath.Join(w.dir, "netns") }

func (w *world) conflist(main, version string, subnets ...string) plugin.Conflist {
	c := plugin.Conflist{
		CNIVersion: version, Name: "pods", Main: main, Bridge: "br0", IPAMDir: filepath.Join(w.dir, "ipam"),
		StateDir: w.stateDir(), NetnsDir: w.netnsDir(),
	}
	for _, s := range subnets {
		c.Subnets = append(c.Subnets, netip.MustParsePrefix(s))
	}
	return c
}

func (w *world) list(c plugin.Conflist) *libcni.NetworkConfigList {
	w.t.Helper()
	raw, err := c.JSON()
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := libcni.NetworkConfFromBytes(raw)
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

func injected(more ...string) map[string]string {
	a := map[string]string{annotation.Injected: "v1"}
	for i := 0; i+1 < len(more); i += 2 {
		a[more[i]] = more[i+1]
	}
	return a
}

func (w *world) runtime(p *nettest.Space, id string, annotations map[string]string) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{
		ContainerID: id, NetNS: p.Path, IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", "web"}, {"K8S_POD_UID", "u1"}},
	}
	if annotations != nil {
		rt.CapabilityArgs = map[string]any{plugin.AnnotationsCapability: annotations}
	}
	return rt
}

// add runs the whole chain.
func (w *world) add(l *libcni.NetworkConfigList, rt *libcni.RuntimeConf) (r *types100.Result, err error) {
	err = w.Do(func() error {
		got, err := w.cni.AddNetworkList(w.t.Context(), l, rt)
		if err != nil {
			return err
		}
		r, err = types100.NewResultFromResult(got)
		return err
	})
	return r, err
}

func (w *world) del(l *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
	return w.Do(func() error { return w.cni.DelNetworkList(context.WithoutCancel(w.t.Context()), l, rt) })
}

// call is one call of our plugin alone, behind a chain that ran without it.
type call struct {
	conf   map[string]any
	args   skel.CmdArgs
	result *types100.Result
}

// before runs the chain without its last and returns the call that would follow.
func (w *world) before(c plugin.Conflist, rt *libcni.RuntimeConf) (*call, func()) {
	w.t.Helper()
	l := w.list(c)
	short := *l
	short.Plugins = l.Plugins[:len(l.Plugins)-1]
	r, err := w.add(&short, rt)
	if err != nil {
		w.t.Fatal(err)
	}
	out := &call{result: r, conf: map[string]any{}, args: skel.CmdArgs{ContainerID: rt.ContainerID, Netns: rt.NetNS, IfName: rt.IfName, Args: "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u1"}}
	if err := json.Unmarshal(l.Plugins[len(l.Plugins)-1].Bytes, &out.conf); err != nil {
		w.t.Fatal(err)
	}
	asked, err := r.GetAsVersion(l.CNIVersion)
	if err != nil {
		w.t.Fatal(err)
	}
	out.conf["name"], out.conf["cniVersion"], out.conf["prevResult"] = l.Name, l.CNIVersion, asked
	if len(rt.CapabilityArgs) > 0 {
		out.conf["runtimeConfig"] = rt.CapabilityArgs
	}
	return out, func() {
		if err := w.del(&short, rt); err != nil {
			w.t.Errorf("DEL of the chain without the plugin: %v", err)
		}
	}
}

func (c *call) skel(t *testing.T) *skel.CmdArgs {
	t.Helper()
	raw, err := json.Marshal(c.conf)
	if err != nil {
		t.Fatal(err)
	}
	a := c.args
	a.StdinData = raw
	return &a
}

// fakeAgent remembers what it is asked.
type fakeAgent struct {
	mu                      sync.Mutex
	attached                map[string]broker.AttachRequest
	failAttach, failRelease error
}

func newFakeAgent() *fakeAgent { return &fakeAgent{attached: map[string]broker.AttachRequest{}} }

func (a *fakeAgent) Attach(_ context.Context, r broker.AttachRequest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failAttach == nil {
		a.attached[r.Sandbox] = r
	}
	return a.failAttach
}

func (a *fakeAgent) Release(_ context.Context, id string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failRelease == nil {
		delete(a.attached, id)
	}
	return a.failRelease
}

func (a *fakeAgent) Status(context.Context) (string, error) { return "v1", a.failAttach }

// ours is our plugin in this process.
func ours(a plugin.Agent, before func(string) error) (*plugin.Plugin, *bytes.Buffer) {
	out := &bytes.Buffer{}
	return plugin.New(plugin.Config{
		Agent: func(string) plugin.Agent { return a }, Log: quiet(), Out: out, Before: before,
	}), out
}

func codeOf(err error) uint {
	var e *types.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func wantError(t *testing.T, err error, code uint, text string) {
	t.Helper()
	if err == nil || codeOf(err) != code || !strings.Contains(err.Error(), text) {
		t.Errorf("got code %d, %v; want code %d with %q", codeOf(err), err, code, text)
	}
}

// leftovers are the plugin's files and namespaces.
func (w *world) leftovers() (left []string) {
	for _, pattern := range []string{filepath.Join(w.netnsDir(), "*"), filepath.Join(w.stateDir(), "networks", "*"), filepath.Join(w.stateDir(), "networks", ".*")} {
		got, _ := filepath.Glob(pattern)
		left = append(left, got...)
	}
	return slices.DeleteFunc(left, func(s string) bool { b := filepath.Base(s); return b == "." || b == ".." })
}

// node runs a real broker at the agent's socket, with queues held in memory.
func (w *world) agent() *memory {
	w.t.Helper()
	hold := &memory{fds: map[string][]int{}}
	pods := filepath.Join(w.stateDir(), "pods")
	if err := os.MkdirAll(pods, 0o700); err != nil {
		w.t.Fatal(err)
	}
	b := broker.New(broker.Config{
		StateDir: pods, Containers: broker.NewRegistry(hold), Holder: hold, Log: quiet(),
		Mesh: func() (broker.Mesh, error) { return broker.Mesh{}, errors.New("no sidecar is expected") },
	})
	ctx, cancel := context.WithCancel(context.Background())
	socket, done := filepath.Join(w.stateDir(), "agent.sock"), make(chan error, 1)
	go func() { done <- (&broker.Server{Broker: b, Version: "test", Log: quiet()}).Run(ctx, socket) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
		b.Close()
		hold.close()
	})
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := (broker.Client{Path: socket}).Status(w.t.Context()); err == nil {
			return hold
		} else if time.Now().After(end) {
			w.t.Fatal(err)
		}
	}
}

// memory is a broker.Holder.
type memory struct {
	mu  sync.Mutex
	fds map[string][]int
}

func dup(fds []int) (out []int, err error) {
	for _, fd := range fds {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("duplicate: %w", err)
		}
		out = append(out, n)
	}
	return out, nil
}

func (m *memory) Put(name string, fds ...int) error {
	own, err := dup(fds)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(name)
	m.fds[name] = own
	return nil
}

func (m *memory) Get(name string) ([]int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return dup(m.fds[name])
}

func (m *memory) Delete(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(name)
	return nil
}

func (m *memory) List() (names []string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := range m.fds {
		names = append(names, n)
	}
	return names, nil
}

func (m *memory) drop(name string) {
	for _, fd := range m.fds[name] {
		_ = unix.Close(fd)
	}
	delete(m.fds, name)
}

func (m *memory) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := range m.fds {
		m.drop(n)
	}
}

// serve stands in for the pod's sidecar: it copies packets between the queues
// that the broker opened.
func (w *world) serve(hold *memory, id string) {
	w.t.Helper()
	fds, err := hold.Get(id + "/queues")
	if err != nil || len(fds) != 2 {
		w.t.Fatalf("the broker holds %d queues for %s: %v", len(fds), id, err)
	}
	nettest.Relay(w.t, os.NewFile(uintptr(fds[0]), "app"), os.NewFile(uintptr(fds[1]), "wire"))
}
