package broker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/cni/cri"
)

// node is a container runtime and a kernel, as far as they are asked.
type node struct {
	containers []cri.Container
	runsAfter  int // lists until containers run
	pids       map[string]int
	procs      map[int]Process
	lists      int
	err        error // of lists
	pidErr     error
}

func (n *node) Containers(context.Context, string) ([]cri.Container, error) {
	out := append([]cri.Container(nil), n.containers...)
	if n.lists++; n.lists > n.runsAfter {
		for i := range out {
			if out[i].State == cri.Created {
				out[i].State = cri.Running
			}
		}
	}
	return out, n.err
}

func (n *node) PID(_ context.Context, id string) (int, error) {
	if n.pidErr != nil {
		return 0, n.pidErr
	}
	if n.pids[id] == 0 {
		return 0, fmt.Errorf("the runtime does not tell: %w", cri.ErrUntold)
	}
	return n.pids[id], nil
}

func (n *node) look(pid int) (Process, error) {
	p, ok := n.procs[pid]
	if !ok {
		return p, errors.New("no such process")
	}
	return p, nil
}

func TestRuntime(t *testing.T) {
	sidecar, app := strings.Repeat("5", 64), strings.Repeat("a", 64)
	cgroup := func(id string) string {
		return "12:cpu,cpuacct:/kubepods/burstable/pod1/" + id + "\n1:name=systemd:/kubepods/burstable/pod1/" + id + "\n0::/\n"
	}
	in := Process{PID: 100, PIDNS: NamespaceID{1, 100}, Cgroup: cgroup(sidecar)}
	healthy := func() *node {
		return &node{
			containers: []cri.Container{
				{ID: strings.Repeat("d", 64), Sandbox: "s", Name: "mesh-proxy", State: cri.Exited},
				{ID: app, Sandbox: "s", Name: "app", State: cri.Running},
				{ID: sidecar, Sandbox: "s", Name: "mesh-proxy", State: cri.Running},
			},
			pids:  map[string]int{sidecar: 100, app: 200},
			procs: map[int]Process{100: in, 200: {PID: 200, PIDNS: NamespaceID{1, 200}, Cgroup: cgroup(app)}},
		}
	}
	own, err := namespaceOfPath("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*node, *Process)
		want   string // "": taken
		waits  bool   // refused for the moment only
	}{
		"the sidecar": {func(*node, *Process) {}, "", false},
		"its child":   {func(_ *node, p *Process) { p.PID = 101 }, "", false},
		"below systemd": {func(n *node, p *Process) {
			p.Cgroup = "0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + sidecar + ".scope\n"
		}, "", false},
		"quicker than the records":   {func(n *node, _ *Process) { n.containers[2].State, n.runsAfter = cri.Created, 3 }, "", false},
		"the app":                    {func(n *node, p *Process) { *p = n.procs[200] }, "not in container mesh-proxy", false},
		"the app in its cgroup":      {func(n *node, p *Process) { *p = n.procs[200]; p.Cgroup = cgroup(sidecar) }, "PID namespace is another", false},
		"the app, a folder below":    {func(n *node, p *Process) { *p = n.procs[200]; p.Cgroup = cgroup(app + "/" + sidecar) }, "PID namespace is another", false},
		"of its namespace only":      {func(_ *node, p *Process) { p.Cgroup = cgroup(app) }, "not in container mesh-proxy", false},
		"the one before":             {func(_ *node, p *Process) { p.Cgroup = cgroup(strings.Repeat("d", 64)) }, "not in container mesh-proxy", false},
		"of another pod":             {func(n *node, _ *Process) { n.containers[2].Sandbox = "t" }, "knows no container", false},
		"an app container":           {func(n *node, _ *Process) { n.containers[2].Name = "app" }, "knows no container", false},
		"not of a container":         {func(_ *node, p *Process) { p.Cgroup = "0::/user.slice\n" }, "not in container mesh-proxy", false},
		"unknown to the runtime":     {func(n *node, _ *Process) { n.containers = nil }, "knows no container", false},
		"the runtime is away":        {func(n *node, _ *Process) { n.err = errors.New("nobody answers") }, "nobody answers", true},
		"the runtime goes":           {func(n *node, _ *Process) { n.pidErr = errors.New("connection reset") }, "connection reset", true},
		"no process told":            {func(n *node, _ *Process) { n.pids = nil }, "does not tell", false},
		"the process told has ended": {func(n *node, _ *Process) { n.procs = nil }, "no such process", false},
		"the number went to the app": {func(n *node, p *Process) {
			n.procs[100] = n.procs[200]
			p.PIDNS = n.procs[200].PIDNS
		}, "is not in container 5555", false},
		"shares the node's processes": {func(n *node, p *Process) {
			p.PIDNS = own
			n.procs[100] = *p
		}, "shares the node's PID namespace", false},
		"never runs": {func(n *node, _ *Process) { n.containers[2].State, n.runsAfter = cri.Created, 1<<30 }, "does not say that container", true},
	} {
		t.Run(name, func(t *testing.T) {
			n, p := healthy(), in
			c.change(n, &p)
			limit := 200 * time.Millisecond
			if c.want == "" {
				limit = time.Minute
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			r := &Runtime{cri: n, look: n.look}
			err := r.Verify(ctx, "s", p)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
			var busy busyError
			if errors.As(err, &busy) != c.waits {
				t.Errorf("%v: asked to wait: %v", err, !c.waits)
			}
		})
	}
}

func TestProcessOf(t *testing.T) {
	own, err := namespaceOfPath("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	if p, err := processOf(os.Getpid()); err != nil || p.PIDNS != own || p.Cgroup == "" {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := processOf(1 << 22); err == nil {
		t.Errorf("of nobody: %+v", p)
	}
}

func TestInCgroup(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for cgroup, want := range map[string]bool{
		"0::/kubepods/pod1/" + id:                      true,
		"5:memory:/kubepods/pod1/" + id:                true,
		"0::/../" + id:                                 true,
		"0::/x.slice/crio-" + id + ".scope":            true,
		"1:name=systemd:/x.slice:cri-containerd:" + id: true,
		"0::/system.slice/docker-" + id + ".scope/x/y": true,
		"0::/kubepods/pod1/" + id[1:]:                  false,
		"0::/kubepods/pod1/" + id + "0":                false,
		"0::/kubepods/pod1/0" + id:                     false,
		"3:name=" + id + ":/":                          false,
		"":                                             false,
		"\n\n:":                                        false,
		"0::/kubepods/pod" + id + "/" + strings.Repeat("a", 64): false,
	} {
		if got := inCgroup(cgroup, id); got != want {
			t.Errorf("%q: %v", cgroup, got)
		}
	}
	if inCgroup("0::/", "") || inCgroup("0::/short", "short") {
		t.Error("what is no id was found")
	}
}

func TestReachable(t *testing.T) {
	four, six := netip.MustParseAddrPort("10.96.0.9:8086"), netip.MustParseAddrPort("[fd00::9]:8086")
	for name, c := range map[string]struct {
		control []netip.AddrPort
		pod     string
		want    netip.AddrPort // zero: refused
	}{
		"IPv4":              {[]netip.AddrPort{six, four}, "10.244.0.2", four},
		"IPv6":              {[]netip.AddrPort{four, six}, "fd00:244::2", six},
		"both, as it comes": {[]netip.AddrPort{six, four}, "10.244.0.2 fd00:244::2", six},
		"none in common":    {[]netip.AddrPort{four}, "fd00:244::2", netip.AddrPort{}},
		"none known":        {nil, "10.244.0.2", netip.AddrPort{}},
	} {
		var pod []netip.Addr
		for a := range strings.FieldsSeq(c.pod) {
			pod = append(pod, netip.MustParseAddr(a))
		}
		if got, err := reachable(c.control, pod); got != c.want || (err == nil) != c.want.IsValid() {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
