// Package seqpacket sends JSON messages with file descriptors over unix
// seqpacket sockets. It owns the framing (one message, one packet), its bounds
// and the life of received descriptors; it refuses to know what messages mean.
package seqpacket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of one message. 253 is the kernel's SCM_MAX_FD; four queue pairs and a
// listener are far below what is allowed here.
const (
	MaxMessage = 64 << 10
	MaxFDs     = 16
)

// Conn is one end of a seqpacket connection. Not for concurrent Sends or Recvs.
type Conn struct {
	uc *net.UnixConn
}

// New wraps uc, which must be of network "unixpacket".
func New(uc *net.UnixConn) *Conn { return &Conn{uc: uc} }

// Dial connects to addr: a path, or "@name" in the abstract namespace of the
// caller's network namespace.
func Dial(ctx context.Context, addr string) (*Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixpacket", addr)
	if err != nil {
		return nil, err
	}
	return New(c.(*net.UnixConn)), nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.uc.Close() }

// SetDeadline bounds Send and Recv; the zero time removes the bound.
func (c *Conn) SetDeadline(t time.Time) error { return c.uc.SetDeadline(t) }

// SyscallConn reaches the socket, for socket options.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.uc.SyscallConn() }

// Send writes v as JSON with fds attached; it borrows the descriptors.
func (c *Conn) Send(v any, fds ...int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(b) > MaxMessage || len(fds) > MaxFDs {
		return fmt.Errorf("send message: %d bytes and %d descriptors, at most %d and %d", len(b), len(fds), MaxMessage, MaxFDs)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := c.uc.WriteMsgUnix(b, oob, nil); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

// Recv reads one message into v and returns the descriptors that came with it,
// close-on-exec, now the caller's. io.EOF when the peer closed.
func (c *Conn) Recv(v any) ([]int, error) {
	b := make([]byte, MaxMessage)
	oob := make([]byte, unix.CmsgSpace(MaxFDs*4))
	n, oobn, flags, _, err := c.uc.ReadMsgUnix(b, oob)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		return nil, fmt.Errorf("receive message: %w", err)
	}
	fds, err := rights(oob[:oobn])
	if err != nil {
		return nil, err
	}
	switch {
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.New("receive message: too large")
	case n == 0 && len(fds) == 0:
		return nil, io.EOF
	default:
		if jerr := json.Unmarshal(b[:n], v); jerr != nil {
			err = fmt.Errorf("decode message: %w", jerr)
		}
	}
	if err != nil {
		CloseAll(fds)
		return nil, err
	}
	return fds, nil
}

func rights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parse control message: %w", err)
	}
	var fds []int
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue // credentials and the like: not descriptors
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

// CloseAll closes every descriptor of fds.
func CloseAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// Listen listens at a path with mode 0600, replacing a socket that nobody
// listens on any more. Something else at the path is an error.
func Listen(path string) (*net.UnixListener, error) {
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("listen at %s: exists and is not a socket; remove it", path)
		}
		if c, err := net.DialTimeout("unixpacket", path, time.Second); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("listen at %s: another process is listening there", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen at %s: remove the stale socket: %w", path, err)
		}
	}
	// Born at a name of its own and renamed once its mode is right: nobody can
	// connect in between.
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	_ = os.Remove(tmp)
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: tmp, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(tmp, 0o600); err == nil {
		err = os.Rename(tmp, path)
		if err == nil {
			return l, nil
		}
	}
	_ = l.Close()
	_ = os.Remove(tmp)
	return nil, fmt.Errorf("listen at %s: %w", path, err)
}
