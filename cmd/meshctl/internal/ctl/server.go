package ctl

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/sandbox"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/wire"
	"github.com/tunmesh/tunmesh/control/files"
	"github.com/tunmesh/tunmesh/internal/seqpacket"
)

// maxClients at once, running execs and port-forwards being made included.
const maxClients = 256

// askWithin bounds the wait for a client's request.
const askWithin = 10 * time.Second

// Handler does the operations.
type Handler interface {
	Status(ctx context.Context) Status
	Apply(ctx context.Context, manifests []files.File) (Applied, error)
	Delete(ctx context.Context, d Delete) error
	Dial(ctx context.Context, d Dial) (*os.File, error)
	Down(ctx context.Context, d Down) error
	Exec(ctx context.Context, e Exec, stdin, stdout, stderr *os.File) (*sandbox.Process, error)
}

// Server serves a Handler.
type Server struct {
	Handler Handler
	Log     *slog.Logger
}

// Run serves on l until ctx ends; it takes l.
func (s *Server) Run(ctx context.Context, l *net.UnixListener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxClients)
	for {
		uc, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept commands: %w", err)
		}
		select {
		case slots <- struct{}{}:
			wg.Go(func() {
				defer func() { <-slots }()
				s.client(ctx, wire.New(seqpacket.New(uc)))
			})
		default:
			_ = uc.Close() // the client says that the holder ended its connection
		}
	}
}

func (s *Server) client(ctx context.Context, ch *wire.Channel) {
	defer ch.Close()
	stop := context.AfterFunc(ctx, func() { _ = ch.Conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = ch.Conn.SetDeadline(time.Now().Add(askWithin))
	m, fds, err := ch.Receive()
	if err != nil {
		return
	}
	defer func() { seqpacket.CloseAll(fds) }()
	_ = ch.Conn.SetDeadline(time.Time{})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go s.watch(ch, cancel)
	if m.Op == OpExec {
		err = s.exec(ctx, ch, m, fds)
	} else {
		err = s.simple(ctx, ch, m)
	}
	if err != nil {
		_ = ch.Send(wire.Message{Op: m.Op, Err: err.Error()}, nil)
	}
}

// watch ends the operation when the client leaves.
func (s *Server) watch(ch *wire.Channel, cancel func()) {
	for {
		_, fds, err := ch.Receive()
		seqpacket.CloseAll(fds)
		if err != nil {
			cancel()
			return
		}
	}
}

func (s *Server) simple(ctx context.Context, ch *wire.Channel, m wire.Message) error {
	var body any
	var err error
	switch m.Op {
	case OpStatus:
		body = s.Handler.Status(ctx)
	case OpApply:
		var manifests []files.File
		if err := m.Decode(&manifests); err != nil {
			return err
		}
		body, err = s.Handler.Apply(ctx, manifests)
	case OpDelete:
		var d Delete
		if err := m.Decode(&d); err != nil {
			return err
		}
		err = s.Handler.Delete(ctx, d)
	case OpDown:
		var d Down
		if err := m.Decode(&d); err != nil {
			return err
		}
		err = s.Handler.Down(ctx, d)
	case OpDial:
		return s.dial(ctx, ch, m)
	default:
		err = fmt.Errorf("unknown operation %q: meshctl and the holder are of different versions; meshctl local down, then up", m.Op)
	}
	if err != nil {
		return err
	}
	return ch.Send(wire.Message{Op: m.Op}, body)
}

func (s *Server) dial(ctx context.Context, ch *wire.Channel, m wire.Message) error {
	var d Dial
	if err := m.Decode(&d); err != nil {
		return err
	}
	f, err := s.Handler.Dial(ctx, d)
	if err != nil {
		return err
	}
	defer f.Close()
	return ch.Send(wire.Message{Op: m.Op}, nil, int(f.Fd()))
}

func (s *Server) exec(ctx context.Context, ch *wire.Channel, m wire.Message, fds []int) error {
	var e Exec
	if err := m.Decode(&e); err != nil {
		return err
	}
	var std [3]*os.File
	if !e.TTY {
		if len(fds) != len(std) {
			return fmt.Errorf("exec: %d descriptors came, want %d", len(fds), len(std))
		}
		for i := range std {
			// Close-on-exec from the first: a pod that starts meanwhile must not inherit it.
			fd, err := unix.FcntlInt(uintptr(fds[i]), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("exec: %w", err)
			}
			std[i] = os.NewFile(uintptr(fd), "std")
			defer std[i].Close()
		}
	}
	p, err := s.Handler.Exec(ctx, e, std[0], std[1], std[2])
	if err != nil {
		return err
	}
	var send []int
	if p.Terminal != nil {
		send = append(send, int(p.Terminal.Fd()))
	}
	err = ch.Send(wire.Message{Op: m.Op}, nil, send...)
	if p.Terminal != nil {
		_ = p.Terminal.Close()
	}
	if err != nil {
		return p.Signal(context.WithoutCancel(ctx), syscall.SIGKILL)
	}
	select {
	case <-p.Done():
		return ch.Send(wire.Message{Op: m.Op}, Exit{Code: p.Exit().Code})
	case <-ctx.Done():
		// Its user left: as a terminal that was closed would, then for good.
		_ = p.Signal(context.WithoutCancel(ctx), syscall.SIGHUP)
		select {
		case <-p.Done():
		case <-time.After(time.Second):
			_ = p.Signal(context.WithoutCancel(ctx), syscall.SIGKILL)
		}
		return ctx.Err()
	}
}
