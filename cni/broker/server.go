package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/tunmesh/tunmesh/internal/seqpacket"
)

const (
	// maxClients at once: plugin calls of a burst of pods, and the runtime.
	maxClients = 64
	// callWithin bounds a call; opening queues takes well below a millisecond.
	callWithin = 10 * time.Second
)

type call struct {
	Op      string // attach, release, status, register, unregister, pods
	Attach  *AttachRequest
	Sandbox string
}

type answer struct {
	Error   string
	Version string
	Pods    []PodInfo
}

// Server answers the node's own clients (the CNI plugin, the runtime) at a
// root-only unix socket.
type Server struct {
	Broker *Broker
	// Registry takes registrations; nil where the runtime is asked instead.
	Registry *Registry
	Version  string
	Log      *slog.Logger
}

// Run serves at path until ctx ends.
func (s *Server) Run(ctx context.Context, path string) error {
	l, err := seqpacket.Listen(path)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxClients)
	for {
		uc, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept at %s: %w", path, err)
		}
		select {
		case slots <- struct{}{}:
			wg.Go(func() {
				defer func() { <-slots }()
				s.client(ctx, uc)
			})
		case <-ctx.Done():
			_ = uc.Close()
		}
	}
}

func (s *Server) client(ctx context.Context, uc *net.UnixConn) {
	c := seqpacket.New(uc)
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(callWithin))
	var q call
	fds, err := c.Recv(&q)
	if err != nil {
		return
	}
	defer seqpacket.CloseAll(fds)
	a, err := s.do(q, fds)
	if err != nil {
		s.Log.Warn("call failed", "op", q.Op, "error", err)
		a = answer{Error: err.Error()}
	}
	if err := c.Send(a); err != nil {
		s.Log.Warn("answer a call", "op", q.Op, "error", err)
	}
}

// do borrows fds.
func (s *Server) do(q call, fds []int) (answer, error) {
	switch q.Op {
	case "attach":
		if q.Attach == nil {
			return answer{}, errors.New("attach: no request")
		}
		return answer{}, s.Broker.Attach(*q.Attach)
	case "release":
		err := s.Broker.Release(q.Sandbox)
		if s.Registry != nil && err == nil {
			err = s.Registry.Unregister(q.Sandbox)
		}
		return answer{}, err
	case "status":
		return answer{Version: s.Version}, nil
	case "pods":
		return answer{Pods: s.Broker.Pods()}, nil
	case "register", "unregister":
		if s.Registry == nil {
			return answer{}, fmt.Errorf("%s: this agent asks the container runtime itself", q.Op)
		}
		if q.Op == "unregister" {
			return answer{}, s.Registry.Unregister(q.Sandbox)
		}
		if len(fds) != 1 || q.Sandbox == "" {
			return answer{}, errors.New("register: a container id and one PID namespace descriptor are needed")
		}
		return answer{}, s.Registry.Register(q.Sandbox, fds[0])
	}
	return answer{}, fmt.Errorf("unknown operation %q", q.Op)
}

// Client calls an agent's Server.
type Client struct {
	// Path of the agent's socket.
	Path string
}

func (c Client) call(ctx context.Context, q call, fds ...int) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	conn, err := seqpacket.Dial(ctx, c.Path)
	if err != nil {
		return answer{}, fmt.Errorf("the node agent does not answer at %s: %w", c.Path, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := conn.Send(q, fds...); err != nil {
		return answer{}, fmt.Errorf("ask the node agent: %w", err)
	}
	var a answer
	got, err := conn.Recv(&a)
	seqpacket.CloseAll(got)
	if err != nil {
		return answer{}, fmt.Errorf("ask the node agent: %w", err)
	}
	if a.Error != "" {
		return answer{}, errors.New(a.Error)
	}
	return a, nil
}

// Attach asks for the queues of a pod to be opened and offered.
func (c Client) Attach(ctx context.Context, r AttachRequest) error {
	_, err := c.call(ctx, call{Op: "attach", Attach: &r})
	return err
}

// Release asks for everything of the sandbox to be closed.
func (c Client) Release(ctx context.Context, sandbox string) error {
	_, err := c.call(ctx, call{Op: "release", Sandbox: sandbox})
	return err
}

// Status returns the agent's version when it answers.
func (c Client) Status(ctx context.Context) (version string, err error) {
	a, err := c.call(ctx, call{Op: "status"})
	return a.Version, err
}

// Pods lists the pods the agent serves.
func (c Client) Pods(ctx context.Context) ([]PodInfo, error) {
	a, err := c.call(ctx, call{Op: "pods"})
	return a.Pods, err
}

// Register names the sandbox's sidecar container by a descriptor of its PID
// namespace (/proc/PID/ns/pid of the container's first process). To be called
// before that process runs anything.
func (c Client) Register(ctx context.Context, sandbox string, nsfd int) error {
	_, err := c.call(ctx, call{Op: "register", Sandbox: sandbox}, nsfd)
	return err
}

// Unregister forgets the sandbox's sidecar container.
func (c Client) Unregister(ctx context.Context, sandbox string) error {
	_, err := c.call(ctx, call{Op: "unregister", Sandbox: sandbox})
	return err
}
