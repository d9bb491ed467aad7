// Package memlink joins two stacks in one process by memory instead of TUN
// devices, so that whole connections can be tested without root. It owns a pair
// of bounded packet queues that keep the virtio header as it was written; it
// refuses to lose, reorder or change anything unless a Tap says so.
package memlink

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/netstack/tun"
)

// Limit is how many packets wait in one direction, as the ring of a TUN whose
// txqueuelen is 8000; a packet more is lost with tun.ErrFull.
const Limit = 8000

// Verdict is what a Tap decides.
type Verdict uint8

// The verdicts.
const (
	Pass  Verdict = iota
	Lose          // the sender does not notice
	Fault         // the sender's Write fails with Tap's error
)

// Tap sees every packet that an end writes. It borrows the packet.
type Tap func(h tun.Header, packet []byte) (Verdict, error)

// End is one end of a pair; it implements tun.Device.
type End struct {
	fd   int // an eventfd that is readable while packets wait
	peer *End

	mu     sync.Mutex
	tap    Tap
	queue  []packet // towards this end
	fault  error    // of Read
	closed bool
}

type packet struct {
	h tun.Header
	b []byte
}

var _ tun.Device = (*End)(nil)

// Pair makes two ends. Both must be closed.
func Pair() (a, b *End, err error) {
	a, b = &End{}, &End{}
	a.peer, b.peer = b, a
	for _, e := range []*End{a, b} {
		if e.fd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
			return nil, nil, fmt.Errorf("make a memory link: %w", err)
		}
	}
	return a, b, nil
}

// SetTap makes f see what this end writes; nil sees nothing.
func (e *End) SetTap(f Tap) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tap = f
}

// SetFault makes Read fail with err until it is set to nil.
func (e *End) SetFault(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fault = err
	e.signal()
}

// FD implements tun.Device.
func (e *End) FD() int { return e.fd }

// Read implements tun.Device.
func (e *End) Read(h *tun.Header, head, tail []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return 0, fmt.Errorf("read memory link: %w", tun.ErrGone)
	case e.fault != nil:
		return 0, e.fault
	case len(e.queue) == 0:
		var b [8]byte
		_, _ = unix.Read(e.fd, b[:])
		return 0, tun.ErrEmpty
	}
	p := e.queue[0]
	e.queue[0] = packet{}
	if e.queue = e.queue[1:]; len(e.queue) == 0 {
		e.queue = nil
	}
	*h = p.h
	n := copy(head, p.b)
	n += copy(tail, p.b[n:])
	return n, nil
}

// Write implements tun.Device.
func (e *End) Write(h *tun.Header, parts [][]byte) error {
	p := packet{h: *h}
	for _, b := range parts {
		p.b = append(p.b, b...)
	}
	e.mu.Lock()
	tap, closed := e.tap, e.closed
	e.mu.Unlock()
	if closed {
		return fmt.Errorf("write memory link: %w", tun.ErrGone)
	}
	if tap != nil {
		switch v, err := tap(p.h, p.b); v {
		case Lose:
			return nil
		case Fault:
			return err
		}
	}
	return e.peer.push(p)
}

// Inject puts a packet into the queue towards this end, as if the peer had
// written it.
func (e *End) Inject(h tun.Header, b []byte) error {
	return e.push(packet{h: h, b: append([]byte(nil), b...)})
}

func (e *End) push(p packet) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return nil // nobody is there: lost, as on a cable
	case len(e.queue) >= Limit:
		return tun.ErrFull
	}
	if e.queue = append(e.queue, p); len(e.queue) == 1 {
		e.signal()
	}
	return nil
}

func (e *End) signal() {
	if !e.closed {
		_, _ = unix.Write(e.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// Close implements tun.Device.
func (e *End) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	e.queue = nil
	if err := unix.Close(e.fd); err != nil && !errors.Is(err, unix.EBADF) {
		return fmt.Errorf("close memory link: %w", err)
	}
	return nil
}
