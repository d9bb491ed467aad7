package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/seqpacket"
)

// Operations that the holder asks of a supervisor. Answers carry the request's
// ID; "exited" comes by itself.
const (
	opVolume = "volume" // Volume → nothing
	opEtc    = "etc"    // etcFiles → nothing
	opStart  = "start"  // Container + stdout, stderr → started + PID namespace
	opGo     = "go"     // procRef → nothing; Err when the program could not be run
	opExec   = "exec"   // execRequest + stdin, stdout, stderr (none with TTY) → started (+ terminal)
	opSignal = "signal" // signalRequest → nothing
	opDial   = "dial"   // dialRequest → nothing + connection
	opExited = "exited" // exited
)

type message struct {
	ID   uint64          `json:",omitempty"`
	Op   string          `json:",omitempty"`
	Err  string          `json:",omitempty"`
	Body json.RawMessage `json:",omitempty"`
	// Big: the body is in a memory file, the last descriptor.
	Big bool `json:",omitempty"`
}

type started struct{ Proc uint64 }

type procRef struct{ Proc uint64 }

type signalRequest struct {
	Proc   uint64
	Signal int
}

type execRequest struct {
	Proc uint64 // the container's
	Exec
}

type dialRequest struct{ Port uint16 }

type exited struct {
	Proc uint64
	Exit
}

type etcFiles struct{ Hosts, Resolv, Hostname []byte }

// inline is the largest body that travels in the message itself.
const inline = 32 << 10

// maxBody bounds bodies in memory files.
const maxBody = 64 << 20

// channel sends and receives messages; many may send, one receives.
type channel struct {
	conn *seqpacket.Conn
	mu   sync.Mutex
}

func (c *channel) send(m message, body any, fds ...int) error {
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode %s: %w", m.Op, err)
		}
		m.Body = raw
	}
	if len(m.Body) > inline {
		f, err := memFile(m.Body)
		if err != nil {
			return err
		}
		defer f.Close()
		m.Body, m.Big = nil, true
		fds = append(fds[:len(fds):len(fds)], int(f.Fd()))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn.Send(m, fds...)
}

// receive returns the next message and the descriptors that belong to it.
func (c *channel) receive() (message, []int, error) {
	var m message
	fds, err := c.conn.Recv(&m)
	if err != nil || !m.Big {
		return m, fds, err
	}
	if len(fds) == 0 {
		return m, nil, errors.New("receive message: its body is missing")
	}
	f := os.NewFile(uintptr(fds[len(fds)-1]), "body")
	defer f.Close()
	m.Body, err = io.ReadAll(io.NewSectionReader(f, 0, maxBody))
	return m, fds[:len(fds)-1], err
}

func memFile(b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("tunmesh", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memory")
	if _, err := f.Write(b); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("write a memory file: %w", err)
	}
	return f, nil
}

// exitOf reads how a process ended.
func exitOf(ps *os.ProcessState) Exit {
	if ps == nil {
		return Exit{Code: -1}
	}
	if ws, ok := ps.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return Exit{Code: 128 + int(ws.Signal()), Signal: int(ws.Signal())}
	}
	return Exit{Code: ps.ExitCode()}
}
