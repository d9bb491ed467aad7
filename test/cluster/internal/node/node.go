// Package node is one node of a cluster: pid 1 of namespaces of its own, with a
// root of its own. It owns what stands on the node before a pod runs: mounts,
// network, cgroups, containerd, kubelet and kube-proxy.
//
// Its end is the node's power-off: the kernel ends every process of it, and its
// namespaces and mounts go. What it wrote stays in its folder, so that the next
// start is a reboot.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/test/cluster/internal/fabric"
	"github.com/tunmesh/tunmesh/test/cluster/internal/layout"
	"github.com/tunmesh/tunmesh/test/cluster/internal/supervise"
)

type node struct {
	layout.Node
	log *slog.Logger
	sup *supervise.Supervisor
}

// Main is the process; it returns its exit code.
func Main(dir string, number int) int {
	n := &node{log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	n.sup = supervise.New(n.log)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	if err := n.run(ctx, dir, number); err != nil {
		n.log.Error("the node ends", "error", err)
		return 1
	}
	return 0
}

func (n *node) run(ctx context.Context, dir string, number int) error {
	c, err := layout.Load(dir)
	if err != nil {
		return err
	}
	n.Node = c.Node(number)
	if err := n.furnish(); err != nil {
		return err
	}
	reaper, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	go n.sup.Run(reaper)
	if err := n.network(ctx); err != nil {
		return err
	}
	if err := n.groups(); err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- n.sup.Serve(ctx, n.Control()) }()
	if err := n.start(ctx); err != nil {
		return err
	}
	return <-served
}

// network waits for the link that the fabric gives the node, and sets it up.
func (n *node) network(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, layout.BootTime, errors.New("the node got no link to the others in time"))
	defer cancel()
	for {
		if _, err := net.InterfaceByName("eth0"); err == nil {
			break
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	cmds := [][]string{{"link", "set", "lo", "up"}, {"link", "set", "eth0", "up"}}
	for i, a := range n.Addresses() {
		gateway := n.Cluster.Addresses()[i].Addr().String()
		cmds = append(cmds, []string{"addr", "add", a.String(), "dev", "eth0", "nodad"}, []string{"route", "add", "default", "via", gateway})
	}
	for _, other := range n.Cluster.AllNodes() {
		if other.Number == n.Number {
			continue
		}
		for i, p := range other.Pods() {
			cmds = append(cmds, []string{"route", "add", p.String(), "via", other.Addresses()[i].Addr().String()})
		}
	}
	for _, c := range cmds {
		if _, err := n.sup.Command(ctx, fabric.Env(n.Cluster), append([]string{"/usr/bin/env", "ip"}, c...)...); err != nil {
			return err
		}
	}
	if err := fabric.Forward(n.Cluster.DualStack); err != nil {
		return err
	}
	// Answers between pods of one bridge must pass the rules that translated the
	// questions' addresses. A kernel without the filter has no such file.
	for _, f := range []string{"iptables", "ip6tables"} {
		if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+f, []byte("1"), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("let bridged packets pass the node's rules: %w", err)
		}
	}
	// A host port is reached from the node's own loopback, too.
	return os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0o644)
}

func (n *node) start(ctx context.Context) error {
	if err := n.configure(); err != nil {
		return err
	}
	if err := n.keep(ctx, "containerd", filepath.Join(n.Cluster.Programs.Containerd, "containerd"), "--config", n.file("containerd.toml")); err != nil {
		return err
	}
	if err := n.importImages(ctx); err != nil {
		return err
	}
	flags := []string{
		"kubelet", "--config=" + n.file("kubelet.json"), "--kubeconfig=" + n.Cluster.PKI(n.Name()+".kubeconfig"),
		"--hostname-override=" + n.Name(), "--node-ip=" + layout.Join(layout.Addrs(n.Addresses())), fmt.Sprintf("-v=%d", n.Cluster.Verbosity),
	}
	if err := n.keep(ctx, "kubelet", n.Cluster.Programs.Kubernetes, flags...); err != nil {
		return err
	}
	return n.keep(ctx, "kube-proxy", n.Cluster.Programs.Kubernetes, "kube-proxy", "--config="+n.file("kube-proxy.json"), fmt.Sprintf("-v=%d", n.Cluster.Verbosity))
}

func (n *node) keep(ctx context.Context, name, program string, args ...string) error {
	return n.sup.Keep(ctx, supervise.Process{
		Name: name, Argv: append([]string{program}, args...), Env: fabric.Env(n.Cluster), Log: n.Log(name),
	})
}

// importImages gives containerd what no registry has. A node that boots again
// has it on its disk.
func (n *node) importImages(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, layout.BootTime, errors.New("containerd took no images in time"))
	defer cancel()
	ctr := filepath.Join(n.Cluster.Programs.Containerd, "ctr")
	for {
		_, err := n.sup.Command(ctx, fabric.Env(n.Cluster), ctr, "version")
		if err == nil {
			break
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
	imported := n.file("images-are-imported")
	if _, err := os.Stat(imported); err == nil {
		return nil
	}
	for _, tar := range n.Cluster.Images {
		if _, err := n.sup.Command(ctx, fabric.Env(n.Cluster), ctr, "-n", "k8s.io", "images", "import", tar); err != nil {
			return err
		}
	}
	return os.WriteFile(imported, nil, 0o644)
}

// file is one of the node's own files, outside of its root.
func (n *node) file(name string) string { return filepath.Join(n.Dir(), name) }
