package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/test/cluster/internal/layout"
	"github.com/tunmesh/tunmesh/test/cluster/internal/supervise"
)

// Node is one node.
type Node struct {
	c      *Cluster
	layout layout.Node
}

// Name is the node's in Kubernetes.
func (n Node) Name() string { return n.layout.Name() }

// Addrs are the node's addresses, IPv4 first.
func (n Node) Addrs() []netip.Addr { return layout.Addrs(n.layout.Addresses()) }

// Disk is where a path of the node stands on this machine. What is mounted on
// the node can't be seen there.
func (n Node) Disk(path string) string { return n.layout.Disk(path) }

// Run runs a command on the node, as its root would, and returns its output.
func (n Node) Run(ctx context.Context, argv ...string) (string, error) {
	cmd, err := n.Command(ctx, argv...)
	if err != nil {
		return "", err
	}
	return output(ctx, cmd, n.Name()+": "+strings.Join(argv, " "))
}

// Command is a command on the node that is not started yet.
func (n Node) Command(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	return inside(ctx, n.layout.Control(), argv)
}

// Process finds a process of the node: containerd, kubelet, kube-proxy.
func (n Node) Process(name string) Process {
	return Process{name: name, client: supervise.Client{Path: n.layout.Control()}}
}

// power is the node as a process of the cluster.
func (n Node) power() Process {
	return Process{name: n.Name(), client: supervise.Client{Path: n.c.layout.Control()}}
}

// PowerOff ends every process of the node at once, and its namespaces.
func (n Node) PowerOff(ctx context.Context) error { return n.power().Kill(ctx) }

// PowerOn boots the node again, with the disk that it had.
func (n Node) PowerOn(ctx context.Context) error {
	if err := n.power().Start(ctx); err != nil {
		return err
	}
	// Its supervisor answers when it takes commands; kubelet is its last step.
	for {
		all, err := (supervise.Client{Path: n.layout.Control()}).Statuses(ctx)
		for _, s := range all {
			if s.Name == "kubelet" && s.PID != 0 {
				return nil
			}
		}
		select {
		case <-time.After(bootPoll):
		case <-ctx.Done():
			return fmt.Errorf("wait for %s to boot: %w: %w", n.Name(), context.Cause(ctx), err)
		}
	}
}

// Reboot is PowerOff and PowerOn.
func (n Node) Reboot(ctx context.Context) error {
	if err := n.PowerOff(ctx); err != nil {
		return err
	}
	return n.PowerOn(ctx)
}

// LoadImage gives the node an image; see Cluster.LoadImage.
func (n Node) LoadImage(ctx context.Context, tarball string) error {
	ctr := filepath.Join(n.c.layout.Programs.Containerd, "ctr")
	cmd := exec.CommandContext(ctx, ctr, "-a", n.layout.Containerd(), "-n", "k8s.io", "images", "import", tarball)
	_, err := output(ctx, cmd, "give "+n.Name()+" "+tarball)
	return err
}

// Process is a handle to a process that a supervisor keeps running.
type Process struct {
	name   string
	client supervise.Client
}

// Kill ends the process by SIGKILL; it stays away until Start.
func (p Process) Kill(ctx context.Context) error { return p.client.Do(ctx, "kill", p.name) }

// Stop ends the process by SIGTERM; it stays away until Start.
func (p Process) Stop(ctx context.Context) error { return p.client.Do(ctx, "stop", p.name) }

// Start starts a process that was killed or stopped.
func (p Process) Start(ctx context.Context) error { return p.client.Do(ctx, "start", p.name) }

// Restart is Kill and Start.
func (p Process) Restart(ctx context.Context) error {
	if err := p.Kill(ctx); err != nil {
		return err
	}
	return p.Start(ctx)
}

// Pause stops the process's clock, as an overloaded machine does; Resume ends it.
func (p Process) Pause(ctx context.Context) error { return p.client.Do(ctx, "pause", p.name) }

// Resume ends a Pause.
func (p Process) Resume(ctx context.Context) error { return p.client.Do(ctx, "resume", p.name) }

// PID is the process's as its supervisor sees it; 0 while it does not run.
func (p Process) PID(ctx context.Context) (int, error) {
	all, err := p.client.Statuses(ctx)
	if err != nil {
		return 0, err
	}
	for _, s := range all {
		if s.Name == p.name {
			return s.PID, nil
		}
	}
	return 0, fmt.Errorf("there is no process %s", p.name)
}
