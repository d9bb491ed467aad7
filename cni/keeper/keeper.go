// Package keeper is a process that only holds descriptors, so that what they
// keep alive (TUN queues, listeners, namespaces) outlives a restart of the
// agent. It owns a map from names to descriptors behind a root-only socket; it
// refuses to know what they are, and does nothing by itself.
//
// Why: attaching again to a persistent multi-queue TUN adds a queue, and half
// of all new flows vanish in it; and a name in the abstract socket namespace
// is free for anybody the moment its last listener closes. See
// docs/design/0005-broker.md.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/seqpacket"
)

// Bounds: 250 pods a node need 3 names each.
const (
	maxNames = 8192
	maxConns = 16
	// listPage keeps an answer below seqpacket's bound: a name has 96 bytes or less.
	listPage   = 512
	maxName    = 96
	callWithin = 5 * time.Second
)

type request struct {
	Op    string // put, get, delete, list, end
	Name  string
	After string // list: names greater than this
}

type reply struct {
	Error string
	Names []string
	// More: the list goes on after the last name.
	More bool
}

// Server is the keeper's process.
type Server struct {
	log *slog.Logger
	end context.CancelFunc // ends Run
	mu  sync.Mutex
	fds map[string][]int
}

// NewServer makes an empty keeper.
func NewServer(log *slog.Logger) *Server {
	return &Server{log: log, fds: map[string][]int{}}
}

// Run serves at the socket path until ctx ends, then closes everything held.
func (s *Server) Run(ctx context.Context, path string) error {
	l, err := seqpacket.Listen(path)
	if err != nil {
		return fmt.Errorf("keeper: %w", err)
	}
	ctx, s.end = context.WithCancel(ctx)
	defer s.end()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer l.Close()
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxConns)
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			wg.Wait()
			s.closeAll()
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("keeper: accept at %s: %w", path, err)
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = c.Close() // a client tries again; the agent uses one connection
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			s.serve(ctx, c)
		})
	}
}

func (s *Server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, fds := range s.fds {
		seqpacket.CloseAll(fds)
	}
	clear(s.fds)
}

func (s *Server) serve(ctx context.Context, uc *net.UnixConn) {
	c := seqpacket.New(uc)
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		var q request
		fds, err := c.Recv(&q)
		if err != nil {
			return
		}
		r, out := s.do(q, fds)
		if err := c.Send(r, out...); err != nil {
			s.log.Warn("answer the agent", "op", q.Op, "name", q.Name, "error", err)
			return
		}
		if q.Op == "end" {
			s.end()
			return
		}
	}
}

// do takes fds.
func (s *Server) do(q request, fds []int) (reply, []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.Op != "put" {
		seqpacket.CloseAll(fds)
	}
	switch q.Op {
	case "put":
		if q.Name == "" || len(q.Name) > maxName || len(fds) == 0 {
			seqpacket.CloseAll(fds)
			return reply{Error: fmt.Sprintf("put %q with %d descriptors: a name of 1 to %d bytes and at least one descriptor are needed", q.Name, len(fds), maxName)}, nil
		}
		if _, there := s.fds[q.Name]; !there && len(s.fds) >= maxNames {
			seqpacket.CloseAll(fds)
			return reply{Error: fmt.Sprintf("put %q: already holding %d names", q.Name, maxNames)}, nil
		}
		seqpacket.CloseAll(s.fds[q.Name])
		s.fds[q.Name] = fds
		return reply{}, nil
	case "get":
		return reply{}, s.fds[q.Name]
	case "delete":
		seqpacket.CloseAll(s.fds[q.Name])
		delete(s.fds, q.Name)
		return reply{}, nil
	case "end":
		return reply{}, nil
	case "list":
		var names []string
		for n := range s.fds {
			if n > q.After {
				names = append(names, n)
			}
		}
		slices.Sort(names)
		if len(names) > listPage {
			return reply{Names: names[:listPage], More: true}, nil
		}
		return reply{Names: names}, nil
	}
	return reply{Error: fmt.Sprintf("unknown operation %q", q.Op)}, nil
}

// Client talks to a keeper over one connection, one call at a time.
type Client struct {
	mu sync.Mutex
	c  *seqpacket.Conn
}

// Dial connects to the keeper at path.
func Dial(ctx context.Context, path string) (*Client, error) {
	c, err := seqpacket.Dial(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("connect to the keeper at %s: %w", path, err)
	}
	return &Client{c: c}, nil
}

// Close ends the connection; what was put stays held.
func (k *Client) Close() error { return k.c.Close() }

func (k *Client) call(q request, fds ...int) (reply, []int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	_ = k.c.SetDeadline(time.Now().Add(callWithin))
	if err := k.c.Send(q, fds...); err != nil {
		return reply{}, nil, fmt.Errorf("keeper %s %q: %w", q.Op, q.Name, err)
	}
	var r reply
	got, err := k.c.Recv(&r)
	if err == nil && r.Error != "" {
		seqpacket.CloseAll(got)
		err = errors.New(r.Error)
	}
	if err != nil {
		return reply{}, nil, fmt.Errorf("keeper %s %q: %w", q.Op, q.Name, err)
	}
	return r, got, nil
}

// Put makes the keeper hold dups of fds under name, in place of what it held
// there. It borrows fds.
func (k *Client) Put(name string, fds ...int) error {
	_, _, err := k.call(request{Op: "put", Name: name}, fds...)
	return err
}

// Get returns dups of what is held under name, now the caller's; nil when nothing is.
func (k *Client) Get(name string) ([]int, error) {
	_, fds, err := k.call(request{Op: "get", Name: name})
	return fds, err
}

// Delete closes what is held under name; nothing held is no error.
func (k *Client) Delete(name string) error {
	_, _, err := k.call(request{Op: "delete", Name: name})
	return err
}

// List returns all names held, sorted.
func (k *Client) List() ([]string, error) {
	var all []string
	after := ""
	for {
		r, _, err := k.call(request{Op: "list", After: after})
		if err != nil {
			return nil, err
		}
		all = append(all, r.Names...)
		if !r.More {
			return all, nil
		}
		after = r.Names[len(r.Names)-1]
	}
}

// End closes everything held and ends the keeper.
func (k *Client) End() error {
	_, _, err := k.call(request{Op: "end"})
	return err
}

// Detach lets go of the standard streams: they are the agent's, which reads them
// no longer than it lives.
func Detach() error {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/null: %w", err)
	}
	defer unix.Close(null)
	for fd := range 3 {
		if err := unix.Dup3(null, fd, 0); err != nil {
			return fmt.Errorf("let go of the standard streams: %w", err)
		}
	}
	return nil
}

// SetNoFile raises the limit of open files to the hard limit: three to six
// descriptors a pod.
func SetNoFile() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	l.Cur = l.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("raise the limit of open files to %d: %w", l.Max, err)
	}
	return nil
}
