package sandbox

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/tunmesh/tunmesh/internal/seqpacket"
)

// Process is a container's first process, or one executed in it.
type Process struct {
	pod  *Pod
	id   uint64
	done chan struct{}
	exit Exit
	// PIDNS is the container's PID namespace; nil for executed ones. The caller
	// closes it.
	PIDNS *os.File
	// Terminal is the master of an executed process's terminal, or nil. The
	// caller closes it.
	Terminal *os.File
}

// Done is closed when the process has ended; then Exit says how.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit may be called after Done.
func (p *Process) Exit() Exit { return p.exit }

func (p *Process) end(e Exit) {
	p.exit = e
	close(p.done)
}

// SetVolume makes a volume or changes its files.
func (p *Pod) SetVolume(ctx context.Context, v Volume) error {
	if err := v.validate(); err != nil {
		return err
	}
	_, err := p.call(ctx, opVolume, v, nil)
	return err
}

// SetEtc gives the pod's own /etc/hosts, /etc/resolv.conf and /etc/hostname; to
// be called before the first container.
func (p *Pod) SetEtc(ctx context.Context, hosts, resolv, hostname string) error {
	_, err := p.call(ctx, opEtc, etcFiles{[]byte(hosts), []byte(resolv), []byte(hostname)}, nil)
	return err
}

// Start sets a container up. Its program begins with Release, so that others
// can be told of PIDNS before. stdout and stderr are borrowed.
func (p *Pod) Start(ctx context.Context, c Container, stdout, stderr *os.File) (*Process, error) {
	for _, m := range c.Mounts {
		if !plainName(m.Volume) {
			return nil, fmt.Errorf("start %s: volume name %q", c.Name, m.Volume)
		}
		if err := checkPoint(m.Path); err != nil {
			return nil, fmt.Errorf("start %s: %w", c.Name, err)
		}
	}
	var s started
	fds, err := p.call(ctx, opStart, c, &s, int(stdout.Fd()), int(stderr.Fd()))
	if err != nil {
		return nil, err
	}
	if len(fds) != 1 {
		seqpacket.CloseAll(fds)
		return nil, fmt.Errorf("start %s: %d descriptors came, want 1", c.Name, len(fds))
	}
	proc := p.track(s.Proc)
	proc.PIDNS = os.NewFile(uintptr(fds[0]), "pidns")
	return proc, nil
}

// Release lets a container's program begin; an error says why it could not.
func (p *Process) Release(ctx context.Context) error {
	_, err := p.pod.call(ctx, opGo, procRef{p.id}, nil)
	return err
}

// Exec starts a process in the container whose first process is in. The files
// are borrowed; with e.TTY they are not used.
func (p *Pod) Exec(ctx context.Context, in *Process, e Exec, stdin, stdout, stderr *os.File) (*Process, error) {
	var fds []int
	if !e.TTY {
		fds = []int{int(stdin.Fd()), int(stdout.Fd()), int(stderr.Fd())}
	}
	var s started
	got, err := p.call(ctx, opExec, execRequest{Proc: in.id, Exec: e}, &s, fds...)
	if err != nil {
		return nil, err
	}
	proc := p.track(s.Proc)
	if len(got) > 0 {
		proc.Terminal = os.NewFile(uintptr(got[0]), "terminal")
		seqpacket.CloseAll(got[1:])
	}
	return proc, nil
}

// Signal sends a signal to the process.
func (p *Process) Signal(ctx context.Context, sig syscall.Signal) error {
	_, err := p.pod.call(ctx, opSignal, signalRequest{Proc: p.id, Signal: int(sig)}, nil)
	return err
}

// Dial connects to a port of the pod's loopback.
func (p *Pod) Dial(ctx context.Context, port uint16) (*os.File, error) {
	fds, err := p.call(ctx, opDial, dialRequest{port}, nil)
	if err != nil {
		return nil, err
	}
	if len(fds) != 1 {
		seqpacket.CloseAll(fds)
		return nil, fmt.Errorf("dial port %d: no connection came", port)
	}
	return os.NewFile(uintptr(fds[0]), "connection"), nil
}

// track makes the handle of a process, which may have ended already.
func (p *Pod) track(id uint64) *Process {
	proc := &Process{pod: p, id: id, done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.early[id]; ok {
		delete(p.early, id)
		proc.end(e)
		return proc
	}
	select {
	case <-p.gone:
		proc.end(Exit{Code: 137, Signal: 9})
	default:
		p.procs[id] = proc
	}
	return proc
}
