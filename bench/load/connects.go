package load

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Connects makes connections, so many at once: connect, one round trip, close.
func Connects(to netip.AddrPort, conns, size int, d time.Duration) (Result, error) {
	r := Result{Connections: conns}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return r, fmt.Errorf("create epoll: %w", err)
	}
	c := connects{to: to, ep: ep, out: make([]byte, size), in: make([]byte, size), now: make([]attempt, conns)}
	defer func() {
		var fds []int
		for _, a := range c.now {
			fds = append(fds, a.fd)
		}
		closeAll(ep, fds)
	}()
	h := newHistogram()
	start := time.Now()
	for i := range c.now {
		if err := c.open(i, 0); err != nil {
			return r, err
		}
	}
	events := make([]unix.EpollEvent, 256)
	var begin time.Duration
	for now := time.Duration(0); now < warmUp+d; now = time.Since(start) {
		n := wait(ep, events, 100)
		for _, e := range events[:n] {
			i := int(e.Pad)
			done, err := c.event(i)
			if err != nil {
				return r, err
			}
			if !done {
				continue
			}
			r.All++
			now := time.Since(start)
			if begin == 0 && now >= warmUp {
				begin = now
			}
			if begin > 0 {
				h.add(now - c.now[i].since)
			}
			if err := c.open(i, now); err != nil {
				return r, err
			}
		}
	}
	h.fill(&r, time.Since(start)-begin)
	return r, nil
}

type connects struct {
	to      netip.AddrPort
	ep      int
	out, in []byte
	now     []attempt
	keep    bool // connections stay when they are done with
}

type attempt struct {
	fd, got int
	sent    bool
	since   time.Duration
}

// open begins the next connection of a place.
func (c *connects) open(i int, now time.Duration) error {
	fd, err := unix.Socket(family(c.to), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	tune(fd)
	c.now[i] = attempt{fd: fd, since: now}
	if err := unix.Connect(fd, sockaddr(c.to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect to %v: %w", c.to, err)
	}
	return watch(c.ep, fd, unix.EPOLLOUT, int32(i))
}

// event reports whether the connection is done with.
func (c *connects) event(i int) (bool, error) {
	a := &c.now[i]
	if !a.sent {
		if err := send(a.fd, c.out); err != nil {
			return false, fmt.Errorf("connect to %v: %w", c.to, err)
		}
		a.sent = true
		return false, modify(c.ep, a.fd, unix.EPOLLIN, int32(i))
	}
	n, err := unix.Read(a.fd, c.in[a.got:])
	if errors.Is(err, unix.EAGAIN) {
		return false, nil
	}
	if err != nil || n == 0 {
		return false, fmt.Errorf("read from %v: %w", c.to, errors.Join(err, errEnded))
	}
	if a.got += n; a.got < len(c.in) {
		return false, nil
	}
	if !c.keep {
		_ = unix.Close(a.fd) // nothing is unread: a FIN
	}
	return true, nil
}
