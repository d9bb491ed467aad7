// Package fabric is the first process of a cluster: pid 1 of namespaces that hold
// everything else. It owns the nodes' network, etcd and the control plane, and
// the nodes as processes; what is inside a node is package node's.
//
//  1. It is started by package hold with the listener at which the machine
//     reaches the API server, and a pipe for what it reports.
//  2. etcd, API server and nodes start together; the controller manager and
//     the scheduler follow when the API server is ready, since they end
//     without its roles.
//  3. It lives until it is killed, and all of the cluster with it.
package fabric

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/test/cluster/internal/apiclient"
	"github.com/tunmesh/tunmesh/test/cluster/internal/layout"
	"github.com/tunmesh/tunmesh/test/cluster/internal/supervise"
)

// Descriptors that the starter hands over, beside the standard ones.
const (
	fdReport   = 3 // Report lines
	fdListener = 4 // of the machine's network: connections for the API server
)

// Report is a line of progress.
type Report struct {
	Step  string `json:",omitempty"` // what was done
	Ready bool   `json:",omitempty"` // the control plane runs
	Err   string `json:",omitempty"` // the end
}

// Env is the environment of all processes of a cluster.
func Env(c layout.Cluster) []string {
	path := []string{c.Programs.Containerd, filepath.Dir(c.Programs.Runc), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
	return []string{"PATH=" + strings.Join(path, ":"), "HOME=/root", "LANG=C.UTF-8"}
}

type fabric struct {
	layout.Cluster
	log    *slog.Logger
	sup    *supervise.Supervisor
	report *json.Encoder
}

// Main is the process; it returns its exit code.
func Main(dir string) int {
	f := &fabric{report: json.NewEncoder(os.NewFile(fdReport, "report"))}
	unix.CloseOnExec(fdReport)
	unix.CloseOnExec(fdListener)
	f.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	f.sup = supervise.New(f.log)
	err := f.run(dir)
	f.log.Error("the cluster ends", "error", err)
	_ = f.report.Encode(Report{Err: err.Error()}) // nobody may listen any more
	return 1
}

func (f *fabric) run(dir string) (err error) {
	if f.Cluster, err = layout.Load(dir); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go f.sup.Run(ctx)
	if err := f.furnish(ctx); err != nil {
		return err
	}
	l, err := net.FileListener(os.NewFile(fdListener, "listener"))
	if err != nil {
		return fmt.Errorf("take over the API server's listener: %w", err)
	}
	go f.relay(ctx, l)
	served := make(chan error, 1)
	go func() { served <- f.sup.Serve(ctx, f.Control()) }()
	if err := f.boot(ctx); err != nil {
		return err
	}
	if err := f.report.Encode(Report{Ready: true}); err != nil {
		return err
	}
	return <-served
}

// furnish makes the machine: mounts, and the nodes' network.
func (f *fabric) furnish(ctx context.Context) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts from the machine: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	data := filepath.Join(f.Dir, "etcd")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("etcd", data, "tmpfs", 0, "mode=700"); err != nil {
		return fmt.Errorf("mount etcd's folder: %w", err)
	}
	if err := unix.Sethostname([]byte("control-plane")); err != nil {
		return err
	}
	cmds := [][]string{{"link", "set", "lo", "up"}, {"link", "add", "br-nodes", "type", "bridge"}, {"link", "set", "br-nodes", "up"}}
	for _, a := range f.Addresses() {
		cmds = append(cmds, []string{"addr", "add", a.String(), "dev", "br-nodes", "nodad"})
	}
	for _, c := range cmds {
		if err := f.ip(ctx, c...); err != nil {
			return err
		}
	}
	return Forward(f.DualStack)
}

// Forward makes the calling process's network namespace a router.
func Forward(six bool) error {
	files := []string{"/proc/sys/net/ipv4/ip_forward"}
	if six {
		files = append(files, "/proc/sys/net/ipv6/conf/all/forwarding")
	}
	for _, s := range files {
		if err := os.WriteFile(s, []byte("1"), 0o644); err != nil {
			return fmt.Errorf("make the namespace a router: %w", err)
		}
	}
	return nil
}

func (f *fabric) ip(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, layout.BootTime)
	defer cancel()
	_, err := f.sup.Command(ctx, Env(f.Cluster), append([]string{"/usr/bin/env", "ip"}, args...)...)
	return err
}

// keep starts a program of Kubernetes.
func (f *fabric) keep(ctx context.Context, name string, flags ...string) error {
	return f.sup.Keep(ctx, supervise.Process{
		Name: name, Argv: append([]string{f.Programs.Kubernetes, name}, flags...), Env: Env(f.Cluster), Log: f.Log(name),
	})
}

func (f *fabric) boot(ctx context.Context) error {
	for _, n := range f.AllNodes() {
		if err := f.node(ctx, n); err != nil {
			return err
		}
	}
	if err := f.keep(ctx, "etcd", f.etcd()...); err != nil {
		return err
	}
	if err := f.keep(ctx, "kube-apiserver", f.apiserver()...); err != nil {
		return err
	}
	if err := f.awaitAPI(ctx); err != nil {
		return err
	}
	_ = f.report.Encode(Report{Step: "API server ready"})
	if err := f.keep(ctx, "kube-controller-manager", f.controllerManager()...); err != nil {
		return err
	}
	return f.keep(ctx, "kube-scheduler", f.scheduler()...)
}

// node starts a node, with namespaces of its own for all that its processes
// see; each start is a boot, and gives it a new link to the others.
func (f *fabric) node(ctx context.Context, n layout.Node) error {
	port := "v" + n.Name()
	return f.sup.Keep(ctx, supervise.Process{
		Name: n.Name(), Argv: []string{f.Self(), "node", f.Dir, fmt.Sprint(n.Number)}, Env: Env(f.Cluster), Log: n.Log("init"),
		Namespaces: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Started: func(ctx context.Context, pid int) error {
			_ = f.ip(ctx, "link", "del", port) // of its last life, where the kernel still has it
			for _, c := range append([][]string{
				{"link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(pid)},
				{"link", "set", port, "master", "br-nodes", "up"},
			}, routes(n)...) {
				if err := f.ip(ctx, c...); err != nil {
					return err
				}
			}
			return nil
		},
	})
}

// routes lead to the node's pods.
func routes(n layout.Node) (out [][]string) {
	for i, p := range n.Pods() {
		out = append(out, []string{"route", "replace", p.String(), "via", n.Addresses()[i].Addr().String()})
	}
	return out
}

// awaitAPI waits until the API server says that it is ready.
func (f *fabric) awaitAPI(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, layout.BootTime, errors.New("the API server was not ready in time: see its log and etcd's"))
	defer cancel()
	client, err := apiclient.New(f.Cluster, f.Endpoint())
	if err != nil {
		return err
	}
	for {
		if client.Get(ctx, "/readyz", nil) == nil {
			return nil
		}
		if err := f.broken(); err != nil {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// broken says which process doesn't come up.
func (f *fabric) broken() error {
	for _, st := range f.sup.Statuses() {
		if err := st.Broken(); err != nil {
			return err
		}
	}
	return nil
}

// relay carries the machine's connections to the API server.
func (f *fabric) relay(ctx context.Context, l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			f.log.Error("connections to the API server are not taken any more", "error", err)
			return
		}
		go f.carry(ctx, conn)
	}
}

func (f *fabric) carry(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	up, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", f.Endpoint())
	if err != nil {
		return // the client sees a closed connection, and tries again
	}
	defer up.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(up, conn) // either side may break off
		_ = up.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(conn, up)
	conn.Close()
	<-done
}
