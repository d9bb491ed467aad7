package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/wire"
	"github.com/tunmesh/tunmesh/internal/seqpacket"
)

// setupTime bounds what a container's first process does before its program.
const setupTime = 30 * time.Second

// containerGate is the supervisor's end of the socket to a container that has
// not run its program yet. It closes by itself when the program begins.
type containerGate struct{ ch *wire.Channel }

func (g *containerGate) close() { _ = g.ch.Close() }

// newGate makes both ends; the far one is to be inherited.
func newGate() (*containerGate, *os.File, error) {
	ch, far, err := wire.Pair()
	if err != nil {
		return nil, nil, err
	}
	return &containerGate{ch: ch}, far, nil
}

// start makes a container's namespaces and mounts; its program waits for opGo,
// so that the holder can tell others who it is first. It borrows fds: stdout
// and stderr.
func (s *supervisor) start(c Container, fds []int) (started, []*os.File, error) {
	if len(fds) != 2 {
		return started{}, nil, fmt.Errorf("start %s: %d descriptors, want stdout and stderr", c.Name, len(fds))
	}
	gate, far, err := newGate()
	if err != nil {
		return started{}, nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		gate.close()
		return started{}, nil, errors.Join(err, far.Close())
	}
	own := []*os.File{null, far}
	defer func() {
		for _, f := range own {
			_ = f.Close()
		}
	}()
	for _, fd := range fds {
		f, err := dupFile(fd)
		if err != nil {
			gate.close()
			return started{}, nil, err
		}
		own = append(own, f)
	}
	// Until the program begins, what is said is not the program's output.
	files := []*os.File{null, os.Stderr, os.Stderr, far, own[2], own[3]}
	proc, err := os.StartProcess(initPath, []string{"init", cmdContainer}, &os.ProcAttr{
		Dir: "/", Env: []string{}, Files: files,
		Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Setsid: true},
	})
	_ = far.Close() // else its end would not be seen
	if err != nil {
		gate.close()
		return started{}, nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	p := &process{os: proc, gate: gate}
	if err := gate.setup(c, p); err != nil {
		_ = proc.Kill()
		_, _ = proc.Wait()
		p.close()
		return started{}, nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	pidns, err := dupFile(int(p.pid.Fd()))
	if err != nil {
		_ = proc.Kill()
		_, _ = proc.Wait()
		p.close()
		return started{}, nil, err
	}
	id := s.add(p)
	go s.wait(id, p)
	return started{Proc: id}, []*os.File{pidns}, nil
}

// setup sends the description and waits until everything is mounted.
func (g *containerGate) setup(c Container, p *process) error {
	_ = g.ch.Conn.SetDeadline(time.Now().Add(setupTime))
	if err := g.ch.Send(wire.Message{Op: opStart}, c); err != nil {
		return err
	}
	m, fds, err := g.ch.Receive()
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("it ended while it was set up")
	case err != nil:
		return err
	case m.Err != "":
		seqpacket.CloseAll(fds)
		return errors.New(m.Err)
	case len(fds) != 2:
		seqpacket.CloseAll(fds)
		return fmt.Errorf("it sent %d namespaces, want 2", len(fds))
	}
	p.mnt = os.NewFile(uintptr(fds[0]), "mnt")
	p.pid = os.NewFile(uintptr(fds[1]), "pid")
	return nil
}

// release lets the container's program begin, and says why it could not.
func (s *supervisor) release(id uint64) error {
	p, err := s.get(id)
	if err != nil {
		return err
	}
	if p.gate == nil {
		return errors.New("not a container")
	}
	_ = p.gate.ch.Conn.SetDeadline(time.Now().Add(setupTime))
	if err := p.gate.ch.Send(wire.Message{Op: opGo}, nil); err != nil {
		return fmt.Errorf("it ended before it began: %w", err)
	}
	m, fds, err := p.gate.ch.Receive()
	seqpacket.CloseAll(fds)
	if errors.Is(err, io.EOF) {
		return nil // closed by execve
	}
	if err != nil {
		return err
	}
	return errors.New(m.Err)
}

func dupFile(fd int) (*os.File, error) {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("dup a descriptor: %w", err)
	}
	return os.NewFile(uintptr(n), "dup"), nil
}
