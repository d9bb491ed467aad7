package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/cni/cri"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// startPoll is how often a runtime is asked again about a container that it has
// not called running yet: its process may be quicker than the runtime's records.
const startPoll = 10 * time.Millisecond

// CRI is what is asked of a container runtime; *cri.Client answers.
type CRI interface {
	Containers(ctx context.Context, sandbox string) ([]cri.Container, error)
	PID(ctx context.Context, container string) (int, error)
}

// Runtime is Containers for a node whose container runtime is asked. A process
// belongs to the sidecar's container if two things hold, neither of which it
// can arrange for itself:
//
//   - its cgroup is that container's. A process with CAP_SYS_ADMIN can enter
//     another cgroup where it sees the hierarchy (version 1), hence also:
//   - its PID namespace is that of the container's first process. No process
//     changes its own, and a sidecar's is not to be seen in other containers.
//
// The first process is pinned and has to be in the container's cgroup, too, so
// that a number that was given out again is not mistaken for it.
type Runtime struct {
	cri  CRI
	look func(pid int) (Process, error)
}

// NewRuntime judges by c.
func NewRuntime(c CRI) *Runtime { return &Runtime{cri: c, look: processOf} }

// Verify implements Containers.
func (r *Runtime) Verify(ctx context.Context, sandbox string, p Process) error {
	for {
		c, err := r.container(ctx, sandbox, p)
		if err != nil {
			return err
		}
		if c.State == cri.Running {
			return r.same(ctx, c, p)
		}
		select {
		case <-ctx.Done():
			return busyError("the runtime does not say that container " + c.ID + " runs")
		case <-time.After(startPoll):
		}
	}
}

// container is the sidecar's, if p is in its cgroup.
func (r *Runtime) container(ctx context.Context, sandbox string, p Process) (cri.Container, error) {
	all, err := r.cri.Containers(ctx, sandbox)
	if err != nil { // it may be starting again, and the sidecar can wait for that
		return cri.Container{}, busyError(err.Error())
	}
	known := false
	for _, c := range all {
		if c.Sandbox != sandbox || c.Name != annotation.SidecarContainer || (c.State != cri.Created && c.State != cri.Running) {
			continue
		}
		if known = true; inCgroup(p.Cgroup, c.ID) {
			return c, nil
		}
	}
	if known {
		return cri.Container{}, fmt.Errorf("the process is not in container %s", annotation.SidecarContainer)
	}
	return cri.Container{}, fmt.Errorf("the container runtime knows no container %s of this pod", annotation.SidecarContainer)
}

// same: p shares a PID namespace, which is not the agent's, with the
// container's first process.
func (r *Runtime) same(ctx context.Context, c cri.Container, p Process) error {
	pid, err := r.cri.PID(ctx, c.ID)
	switch {
	case errors.Is(err, cri.ErrUntold):
		return err
	case err != nil: // as for the list
		return busyError(err.Error())
	}
	first, err := r.look(pid)
	if err != nil {
		return fmt.Errorf("look at the container's process %d: %w", pid, err)
	}
	own, err := namespaceOfPath("/proc/self/ns/pid")
	if err != nil {
		return err
	}
	switch {
	case !inCgroup(first.Cgroup, c.ID):
		return fmt.Errorf("process %d, which the runtime names, is not in container %s", pid, c.ID)
	case first.PIDNS == own:
		return errors.New("the sidecar's container shares the node's PID namespace, which tells nobody apart")
	case p.PIDNS != first.PIDNS:
		return fmt.Errorf("the process is not in container %s: its PID namespace is another", annotation.SidecarContainer)
	}
	return nil
}

// processOf reads what the kernel says about a process that is alive all the
// while.
func processOf(pid int) (Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return Process{}, fmt.Errorf("open a pidfd: %w", err)
	}
	p := peer{pidfd: fd, pid: pid}
	defer p.close()
	return p.process()
}

// inCgroup reports whether a /proc/PID/cgroup puts its process into the cgroup
// of a container: a folder called ID, or KIND-ID.scope where systemd keeps them.
func inCgroup(cgroup, id string) bool {
	if len(id) < 12 {
		return false // no container id
	}
	for line := range strings.SplitSeq(cgroup, "\n") {
		_, rest, _ := strings.Cut(line, ":")
		_, path, _ := strings.Cut(rest, ":")
		for name := range strings.SplitSeq(path, "/") {
			name = strings.TrimSuffix(name, ".scope")
			if name == id || strings.HasSuffix(name, "-"+id) || strings.HasSuffix(name, ":"+id) {
				return true
			}
		}
	}
	return false
}
