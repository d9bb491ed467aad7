package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/wire"
	"github.com/tunmesh/tunmesh/internal/seqpacket"
)

// NetNSDir holds the pods' network namespaces, in the holder's mount namespace.
const NetNSDir = "/run/netns"

// Pod is the holder's handle on a sandbox.
type Pod struct {
	id, dir string
	ch      *wire.Channel
	cmd     *exec.Cmd
	gone    chan struct{}

	mu    sync.Mutex
	next  uint64
	calls map[uint64]chan answer
	procs map[uint64]*Process
	early map[uint64]Exit // ended before its start was known
}

type answer struct {
	wire.Message
	fds []int
}

// Start makes the sandbox. Close ends it.
func (b *Base) Start(ctx context.Context, spec Spec) (_ *Pod, err error) {
	if err := spec.validate(); err != nil {
		return nil, fmt.Errorf("start sandbox: %w", err)
	}
	p := &Pod{id: spec.ID, dir: b.path("pods", spec.ID), gone: make(chan struct{}),
		calls: map[uint64]chan answer{}, procs: map[uint64]*Process{}, early: map[uint64]Exit{}}
	defer func() {
		if err != nil {
			err = fmt.Errorf("start sandbox %s: %w", spec.ID, err)
			p.cleanUp()
		}
	}()
	root := filepath.Join(p.dir, "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	if err := b.build(root, spec.Points); err != nil {
		return nil, err
	}
	if err := p.spawn(b.path("init"), root, spec); err != nil {
		return nil, err
	}
	go p.wait(b)
	if err := p.greet(ctx); err != nil {
		_ = p.cmd.Process.Kill()
		<-p.gone
		return nil, err
	}
	if err := p.keepNetNS(); err != nil {
		_ = p.cmd.Process.Kill()
		<-p.gone
		return nil, err
	}
	go p.read()
	return p, nil
}

// spawn starts the supervisor in its namespaces.
func (p *Pod) spawn(program, root string, spec Spec) error {
	ch, far, err := wire.Pair()
	if err != nil {
		return err
	}
	defer far.Close()
	p.ch = ch
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(spec.IDBase), Size: IDs}}
	p.cmd = exec.Command(program, cmdPod, root, spec.Hostname)
	p.cmd.Env = []string{"GOMAXPROCS=2", "GOGC=50"}
	p.cmd.Stderr = os.Stderr
	p.cmd.ExtraFiles = []*os.File{far}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS |
			unix.CLONE_NEWIPC | unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP,
		UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{Uid: 0, Gid: 0},
		Setsid:     true,
	}
	return p.cmd.Start()
}

// greet waits until the supervisor serves.
func (p *Pod) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setupTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = p.ch.Conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	m, fds, err := p.ch.Receive()
	seqpacket.CloseAll(fds)
	if err != nil {
		return fmt.Errorf("its supervisor did not begin (see the runtime's log): %w", err)
	}
	if m.Op != "ready" {
		return fmt.Errorf("its supervisor said %q, want ready", m.Op)
	}
	return nil
}

// keepNetNS gives the network namespace a name that outlives the supervisor,
// until CleanNetNS: CNI's DEL still finds it.
func (p *Pod) keepNetNS() error {
	if err := touch(p.NetNS()); err != nil {
		return err
	}
	return unix.Mount(fmt.Sprintf("/proc/%d/ns/net", p.cmd.Process.Pid), p.NetNS(), "", unix.MS_BIND, "")
}

// NetNS is the path of the pod's network namespace.
func (p *Pod) NetNS() string { return filepath.Join(NetNSDir, p.id) }

// PID of the supervisor, in the holder's PID namespace.
func (p *Pod) PID() int { return p.cmd.Process.Pid }

// Gone is closed when the supervisor, and with it all that ran in the pod, has ended.
func (p *Pod) Gone() <-chan struct{} { return p.gone }

// Close ends all processes of the pod at once and forgets its namespaces.
func (p *Pod) Close() {
	_ = p.cmd.Process.Kill()
	<-p.gone
	p.cleanUp()
}

// Kill ends the sandbox as a crash would: nothing is cleaned up.
func (p *Pod) Kill() error { return p.cmd.Process.Kill() }

func (p *Pod) cleanUp() {
	if p.ch != nil {
		_ = p.ch.Conn.Close()
	}
	_ = unix.Unmount(p.NetNS(), unix.MNT_DETACH)
	_ = os.Remove(p.NetNS())
	_ = unix.Unmount(filepath.Join(p.dir, "root"), unix.MNT_DETACH)
	_ = os.Remove(filepath.Join(p.dir, "root"))
	_ = os.Remove(p.dir)
}

// wait reaps the supervisor and ends what waits for it.
func (p *Pod) wait(b *Base) {
	err := p.cmd.Wait()
	b.log.Debug("sandbox ended", "sandbox", p.id, "state", fmt.Sprint(err))
	_ = p.ch.Conn.SetDeadline(time.Unix(1, 0))
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.gone)
	for id, c := range p.calls {
		close(c)
		delete(p.calls, id)
	}
	for id, proc := range p.procs {
		proc.end(Exit{Code: 137, Signal: int(unix.SIGKILL)})
		delete(p.procs, id)
	}
}

// read hands the supervisor's answers and events to those who wait.
func (p *Pod) read() {
	for {
		m, fds, err := p.ch.Receive()
		if err != nil {
			_ = p.cmd.Process.Kill() // a supervisor that cannot be heard is of no use
			return
		}
		p.mu.Lock()
		if m.Op == opExited {
			p.exited(m)
			seqpacket.CloseAll(fds)
		} else if c := p.calls[m.ID]; c != nil {
			delete(p.calls, m.ID)
			c <- answer{m, fds} // holds one
		} else {
			seqpacket.CloseAll(fds)
		}
		p.mu.Unlock()
	}
}

func (p *Pod) exited(m wire.Message) {
	var e exited
	if json.Unmarshal(m.Body, &e) != nil {
		return
	}
	if proc := p.procs[e.Proc]; proc != nil {
		proc.end(e.Exit)
		delete(p.procs, e.Proc)
		return
	}
	p.early[e.Proc] = e.Exit
}

// call asks the supervisor and waits for its answer.
func (p *Pod) call(ctx context.Context, op string, body, out any, fds ...int) ([]int, error) {
	c := make(chan answer, 1)
	p.mu.Lock()
	select {
	case <-p.gone:
		p.mu.Unlock()
		return nil, ErrGone
	default:
	}
	p.next++
	id := p.next
	p.calls[id] = c
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.calls, id)
		p.mu.Unlock()
	}()
	if err := p.ch.Send(wire.Message{ID: id, Op: op}, body, fds...); err != nil {
		return nil, errors.Join(ErrGone, err)
	}
	select {
	case a, ok := <-c:
		if !ok {
			return nil, ErrGone
		}
		if a.Err != "" {
			seqpacket.CloseAll(a.fds)
			return nil, errors.New(a.Err)
		}
		if out != nil {
			if err := json.Unmarshal(a.Body, out); err != nil {
				seqpacket.CloseAll(a.fds)
				return nil, fmt.Errorf("decode the answer to %s: %w", op, err)
			}
		}
		return a.fds, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
