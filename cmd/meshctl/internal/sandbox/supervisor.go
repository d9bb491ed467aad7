package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/wire"
	"github.com/tunmesh/tunmesh/internal/seqpacket"
)

const (
	volumesDir = "/tunmesh/volumes"
	etcVolume  = ".etc"
	initPath   = "/tunmesh/init" // this program, in a pod's tree
	// maxCalls are served at once by a supervisor.
	maxCalls = 64
	dialTime = 10 * time.Second
)

// supervisor is pid 1 of a pod. It trusts the holder, who owns the other end
// of ch; what runs in containers cannot reach it.
type supervisor struct {
	ch   *wire.Channel
	mu   sync.Mutex
	next uint64
	proc map[uint64]*process
}

// process is a container's first process, or one that was started in it.
type process struct {
	os *os.Process
	// Of containers: their namespaces, and the pipe that lets them run.
	mnt, pid *os.File
	gate     *containerGate
}

// supervise is the program of a pod's supervisor, with the channel at
// descriptor 3.
func supervise(root, hostname string) error {
	if err := enterTree(root); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set the hostname: %w", err)
	}
	if err := prepareNetwork(); err != nil {
		return err
	}
	if err := podMounts(); err != nil {
		return err
	}
	ch, err := wire.Of(os.NewFile(3, "channel"))
	if err != nil {
		return err
	}
	s := &supervisor{ch: ch, proc: map[uint64]*process{}}
	if err := s.ch.Send(wire.Message{Op: "ready"}, nil); err != nil {
		return err
	}
	return s.serve()
}

// enterTree makes root the only thing this mount namespace knows.
func enterTree(root string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", root, err)
	}
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter %s: %w", root, err)
	}
	// The old root lands on top of the new one and is taken off.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot to %s: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	return unix.Chdir("/")
}

// podMounts makes what a pod's containers share.
func podMounts() error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("tmpfs", volumesDir, "tmpfs", flags, "mode=711,size=64k"); err != nil {
		return fmt.Errorf("mount volumes: %w", err)
	}
	if err := unix.Mount("tmpfs", "/dev/shm", "tmpfs", flags|unix.MS_NOEXEC, "mode=1777,size=64m"); err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	if err := unix.Mount("mqueue", "/dev/mqueue", "mqueue", flags|unix.MS_NOEXEC, ""); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("mount /dev/mqueue: %w", err)
	}
	return nil
}

// serve answers until the holder closes the channel.
func (s *supervisor) serve() error {
	slots := make(chan struct{}, maxCalls)
	for {
		m, fds, err := s.ch.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			s.answer(m, fds)
		}()
	}
}

func (s *supervisor) answer(m wire.Message, fds []int) {
	defer func() { seqpacket.CloseAll(fds) }()
	body, send, err := s.do(m, fds)
	reply := wire.Message{ID: m.ID, Op: m.Op}
	if err != nil {
		reply.Err, body = err.Error(), nil
	}
	var out []int
	for _, f := range send {
		out = append(out, int(f.Fd()))
	}
	if err := s.ch.Send(reply, body, out...); err != nil {
		fmt.Fprintln(os.Stderr, "answer", m.Op+":", err)
	}
	for _, f := range send {
		_ = f.Close()
	}
}

// do borrows fds; the files it returns are the caller's to send and close.
func (s *supervisor) do(m wire.Message, fds []int) (body any, send []*os.File, err error) {
	switch m.Op {
	case opVolume:
		return nil, nil, with(m, func(v Volume) error { return putVolume(volumesDir, v) })
	case opEtc:
		return nil, nil, with(m, putEtc)
	case opStart:
		err = with(m, func(c Container) (err error) { body, send, err = s.start(c, fds); return err })
	case opGo:
		err = with(m, func(r procRef) error { return s.release(r.Proc) })
	case opExec:
		err = with(m, func(r execRequest) (err error) { body, send, err = s.exec(r, fds); return err })
	case opSignal:
		err = with(m, func(r signalRequest) error { return s.signal(r) })
	case opDial:
		err = with(m, func(r dialRequest) (err error) { send, err = dialLocal(r.Port); return err })
	default:
		err = fmt.Errorf("unknown operation %q", m.Op)
	}
	return body, send, err
}

func with[T any](m wire.Message, f func(T) error) error {
	var v T
	if err := m.Decode(&v); err != nil {
		return err
	}
	return f(v)
}

func putEtc(e etcFiles) error {
	return putVolume(volumesDir, Volume{Name: etcVolume, Mode: 0o755, MaxBytes: 1 << 20, Files: []File{
		{Path: "hosts", Mode: 0o644, Data: e.Hosts},
		{Path: "resolv.conf", Mode: 0o644, Data: e.Resolv},
		{Path: "hostname", Mode: 0o644, Data: e.Hostname},
	}})
}

// dialLocal connects to a port of the pod's loopback, IPv4 first.
func dialLocal(port uint16) ([]*os.File, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTime)
	defer cancel()
	var errs []error
	for _, host := range []string{"127.0.0.1", "::1"} {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, fmt.Sprint(port)))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f, err := c.(*net.TCPConn).File()
		_ = c.Close()
		if err != nil {
			return nil, err
		}
		return []*os.File{f}, nil
	}
	return nil, errs[0]
}

func (s *supervisor) add(p *process) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	s.proc[s.next] = p
	return s.next
}

func (s *supervisor) get(id uint64) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.proc[id]; p != nil {
		return p, nil
	}
	return nil, os.ErrProcessDone
}

// wait tells the holder when the process ends.
func (s *supervisor) wait(id uint64, p *process) {
	ps, _ := p.os.Wait()
	s.mu.Lock()
	delete(s.proc, id)
	s.mu.Unlock()
	p.close()
	if err := s.ch.Send(wire.Message{Op: opExited}, exited{Proc: id, Exit: exitOf(ps)}); err != nil {
		fmt.Fprintln(os.Stderr, "report an exit:", err)
	}
}

func (p *process) close() {
	for _, f := range []*os.File{p.mnt, p.pid} {
		if f != nil {
			_ = f.Close()
		}
	}
	if p.gate != nil {
		p.gate.close()
	}
}

func (s *supervisor) signal(r signalRequest) error {
	p, err := s.get(r.Proc)
	if err != nil {
		return err
	}
	return p.os.Signal(unix.Signal(r.Signal))
}

// prepareNetwork brings loopback up and leaves duplicate address detection out:
// the runtime gives every address to one pod only, and waiting for an answer
// that nobody sends delays each start by a second.
func prepareNetwork() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	for _, name := range []string{"all", "default"} {
		err := os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", name, "accept_dad"), []byte("0"), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set accept_dad: %w", err)
		}
	}
	return nil
}
