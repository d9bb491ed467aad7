// Package wire sends requests and answers with descriptors between parts of a
// local mesh over a seqpacket socket. It owns framing and bounds; bodies of any
// reasonable size travel in memory files. It refuses to know the operations.
package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/seqpacket"
)

// inline is the largest body that travels in the message itself.
const inline = 32 << 10

// maxBody bounds bodies in memory files.
const maxBody = 64 << 20

// Message is one request, answer or event.
type Message struct {
	ID   uint64          `json:",omitempty"` // answers carry the request's
	Op   string          `json:",omitempty"`
	Err  string          `json:",omitempty"`
	Body json.RawMessage `json:",omitempty"`
	// Big: the body is in a memory file, the last descriptor. Set and taken by
	// Channel.
	Big bool `json:",omitempty"`
}

// Decode reads the body into v.
func (m *Message) Decode(v any) error {
	if err := json.Unmarshal(m.Body, v); err != nil {
		return fmt.Errorf("decode %s: %w", m.Op, err)
	}
	return nil
}

// Channel sends and receives messages; many may send, one receives.
type Channel struct {
	Conn *seqpacket.Conn
	mu   sync.Mutex
}

// New makes a channel of a connection, which it owns.
func New(c *seqpacket.Conn) *Channel { return &Channel{Conn: c} }

// Of takes f, a connected seqpacket socket.
func Of(f *os.File) (*Channel, error) {
	c, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return nil, fmt.Errorf("take a socket: %w", err)
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, errors.New("take a socket: not a unix socket")
	}
	return New(seqpacket.New(uc)), nil
}

// Pair makes a channel and the socket of its other end, to be inherited.
func Pair() (*Channel, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	far := os.NewFile(uintptr(fds[1]), "channel")
	c, err := Of(os.NewFile(uintptr(fds[0]), "channel"))
	if err != nil {
		_ = far.Close()
		return nil, nil, err
	}
	return c, far, nil
}

// Close ends the connection.
func (c *Channel) Close() error { return c.Conn.Close() }

// Send writes m with body in it, if any; it borrows the descriptors.
func (c *Channel) Send(m Message, body any, fds ...int) error {
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
	return c.Conn.Send(m, fds...)
}

// Receive returns the next message and the descriptors that belong to it, now
// the caller's. io.EOF when the other end closed.
func (c *Channel) Receive() (Message, []int, error) {
	var m Message
	fds, err := c.Conn.Recv(&m)
	if err != nil || !m.Big {
		return m, fds, err
	}
	if len(fds) == 0 {
		return m, nil, errors.New("receive message: its body is missing")
	}
	f := os.NewFile(uintptr(fds[len(fds)-1]), "body")
	defer f.Close()
	fds = fds[:len(fds)-1]
	m.Body, err = io.ReadAll(io.NewSectionReader(f, 0, maxBody))
	if err != nil {
		seqpacket.CloseAll(fds)
		return m, nil, fmt.Errorf("receive message: %w", err)
	}
	return m, fds, nil
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
