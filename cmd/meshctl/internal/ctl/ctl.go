// Package ctl is how meshctl talks to the holder of a local mesh: a root-only
// unix socket, one operation a connection, descriptors passed where bytes flow.
// It owns the operations' form; the holder does them.
package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/state"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/store"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/wire"
	"github.com/tunmesh/tunmesh/control/files"
	"github.com/tunmesh/tunmesh/internal/seqpacket"
)

// Operations.
const (
	OpStatus = "status" // → Status
	OpApply  = "apply"  // []files.File → Applied
	OpDelete = "delete" // Delete → nothing
	OpExec   = "exec"   // Exec + stdin, stdout, stderr (none with TTY) → started (+ terminal), later Exit
	OpDial   = "dial"   // Dial → connection
	OpDown   = "down"   // Down → nothing; then the holder ends
)

// Applied says what an apply did.
type Applied struct {
	Results  []store.Result
	Warnings []string
}

// Status of the holder's parts.
type Status struct {
	Version string
	// Control and Agent say whether they answer.
	Control, Agent bool
	// Pods and Ready count those that are wanted, and those that are ready.
	Pods, Ready int
	// Waiting tells of pods that are not ready, one line each.
	Waiting []string
}

// Delete names an object; Kind "pod" is a running pod.
type Delete struct{ Kind, Namespace, Name string }

// Exec asks for a process in a container.
type Exec struct {
	Namespace, Pod, Container string
	Argv                      []string
	TTY                       bool
}

// Exit is how the process ended.
type Exit struct{ Code int }

// Dial names a pod, or a Service, and a port of it; without either it is a port of
// the control plane's loopback.
type Dial struct {
	Namespace, Pod, Service string
	Port                    uint16
}

// Down asks for an orderly end.
type Down struct{ Grace time.Duration }

// ErrDown means that nobody holds the mesh.
var ErrDown = errors.New("is not running")

// Client talks to the holder of one mesh.
type Client struct{ Dir state.Dir }

// open connects; the channel is closed when ctx ends.
func (c Client) open(ctx context.Context) (*wire.Channel, func(), error) {
	conn, err := seqpacket.Dial(ctx, c.Dir.Socket())
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return nil, nil, fmt.Errorf("the local mesh %q %w: start it with meshctl local up", c.Dir.Name(), ErrDown)
		}
		return nil, nil, fmt.Errorf("reach the local mesh %q: %w", c.Dir.Name(), err)
	}
	ch := wire.New(conn)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return ch, func() { stop(); _ = ch.Close() }, nil
}

func (c Client) call(ctx context.Context, op string, body, out any) ([]int, error) {
	ch, done, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := ch.Send(wire.Message{Op: op}, body); err != nil {
		return nil, fmt.Errorf("ask the holder: %w", err)
	}
	fds, err := answer(ctx, ch, out)
	return fds, err
}

func answer(ctx context.Context, ch *wire.Channel, out any) ([]int, error) {
	m, fds, err := ch.Receive()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		} else if errors.Is(err, io.EOF) {
			err = errors.New("it ended meanwhile")
		}
		return nil, fmt.Errorf("ask the holder: %w", err)
	}
	if m.Err == "" && out != nil {
		err = m.Decode(out)
	} else if m.Err != "" {
		err = errors.New(m.Err)
	}
	if err != nil {
		seqpacket.CloseAll(fds)
		return nil, err
	}
	return fds, nil
}

// Status asks how the mesh is.
func (c Client) Status(ctx context.Context) (Status, error) {
	var s Status
	fds, err := c.call(ctx, OpStatus, nil, &s)
	seqpacket.CloseAll(fds)
	return s, err
}

// Apply adds and changes objects.
func (c Client) Apply(ctx context.Context, manifests []files.File) (Applied, error) {
	var a Applied
	fds, err := c.call(ctx, OpApply, manifests, &a)
	seqpacket.CloseAll(fds)
	return a, err
}

// Delete removes an object, or ends a pod.
func (c Client) Delete(ctx context.Context, d Delete) error {
	fds, err := c.call(ctx, OpDelete, d, nil)
	seqpacket.CloseAll(fds)
	return err
}

// Dial connects to a port of a pod's loopback, or of the control plane's.
func (c Client) Dial(ctx context.Context, d Dial) (*os.File, error) {
	fds, err := c.call(ctx, OpDial, d, nil)
	if err != nil {
		return nil, err
	}
	if len(fds) != 1 {
		seqpacket.CloseAll(fds)
		return nil, errors.New("the holder sent no connection")
	}
	return os.NewFile(uintptr(fds[0]), "connection"), nil
}

// Down asks for an orderly end and waits for the answer that all pods ended.
func (c Client) Down(ctx context.Context, d Down) error {
	fds, err := c.call(ctx, OpDown, d, nil)
	seqpacket.CloseAll(fds)
	return err
}

// Process is one that Exec started.
type Process struct {
	// Terminal is its terminal's master, with Exec.TTY.
	Terminal *os.File
	ch       *wire.Channel
	done     func()
	ctx      context.Context
}

// Exec starts a process in a container; the files are borrowed. It ends with
// the Process being closed.
func (c Client) Exec(ctx context.Context, e Exec, stdin, stdout, stderr *os.File) (*Process, error) {
	ch, done, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	var fds []int
	if !e.TTY {
		fds = []int{int(stdin.Fd()), int(stdout.Fd()), int(stderr.Fd())}
	}
	if err := ch.Send(wire.Message{Op: OpExec}, e, fds...); err != nil {
		done()
		return nil, fmt.Errorf("ask the holder: %w", err)
	}
	got, err := answer(ctx, ch, nil)
	if err != nil {
		done()
		return nil, err
	}
	p := &Process{ch: ch, done: done, ctx: ctx}
	if len(got) > 0 {
		p.Terminal = os.NewFile(uintptr(got[0]), "terminal")
		seqpacket.CloseAll(got[1:])
	}
	return p, nil
}

// Wait returns the process's exit code.
func (p *Process) Wait() (int, error) {
	var e Exit
	fds, err := answer(p.ctx, p.ch, &e)
	seqpacket.CloseAll(fds)
	return e.Code, err
}

// Close ends the process if it still runs.
func (p *Process) Close() {
	if p.Terminal != nil {
		_ = p.Terminal.Close()
	}
	p.done()
}
