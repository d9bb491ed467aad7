package load

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// PingPong keeps one message of size bytes under way on each connection.
func PingPong(to netip.AddrPort, conns, size int, d time.Duration) (Result, error) {
	r := Result{Connections: conns}
	ep, fds, err := connectAll(to, conns, unix.EPOLLIN)
	if err != nil {
		return r, err
	}
	defer closeAll(ep, fds)
	out, in := make([]byte, size), make([]byte, size)
	got, sent := make([]int, conns), make([]time.Duration, conns)
	events := make([]unix.EpollEvent, 256)
	start := time.Now()
	h := newHistogram()
	for i, fd := range fds {
		sent[i] = time.Since(start)
		if err := send(fd, out); err != nil {
			return r, err
		}
	}
	var begin time.Duration
	for now := time.Duration(0); now < warmUp+d; now = time.Since(start) {
		n := wait(ep, events, 100)
		for _, e := range events[:n] {
			i := e.Pad
			n, err := unix.Read(int(e.Fd), in[:size-got[i]])
			if errors.Is(err, unix.EAGAIN) {
				continue
			}
			if err != nil || n == 0 {
				return r, fmt.Errorf("read from %v: %d bytes, %w", to, n, errors.Join(err, errEnded))
			}
			if got[i] += n; got[i] < size {
				continue
			}
			now := time.Since(start)
			r.All++
			if now >= warmUp {
				if begin == 0 {
					begin = now
				}
				h.add(now - sent[i])
			}
			got[i], sent[i] = 0, now
			if err := send(int(e.Fd), out); err != nil {
				return r, err
			}
		}
	}
	h.fill(&r, time.Since(start)-begin)
	r.Retransmits = retransmits(fds)
	return r, nil
}

var errEnded = errors.New("the connection ended")

func send(fd int, b []byte) error {
	n, err := unix.Write(fd, b)
	if err != nil || n != len(b) {
		return fmt.Errorf("send: %d of %d bytes: %w", n, len(b), errors.Join(err, errEnded))
	}
	return nil
}

// Bulk sends as much as it can on each connection.
func Bulk(to netip.AddrPort, conns int, d time.Duration) (Result, error) {
	r := Result{Connections: conns}
	ep, fds, err := connectAll(to, conns, unix.EPOLLOUT)
	if err != nil {
		return r, err
	}
	defer closeAll(ep, fds)
	buf := make([]byte, 128<<10)
	events := make([]unix.EpollEvent, 64)
	start := time.Now()
	var begin time.Duration
	var bytes, all uint64
	for now := time.Duration(0); now < warmUp+d; now = time.Since(start) {
		if begin == 0 && now >= warmUp {
			begin, all, bytes = now, bytes, 0
		}
		n := wait(ep, events, 100)
		for _, e := range events[:n] {
			n, err := unix.Write(int(e.Fd), buf)
			if err != nil && !errors.Is(err, unix.EAGAIN) {
				return r, fmt.Errorf("send to %v: %w", to, err)
			}
			bytes += uint64(max(n, 0))
		}
	}
	took := time.Since(start) - begin
	r.AllBytes = all + bytes
	r.Seconds, r.Gbit = took.Seconds(), float64(bytes)*8/float64(took)
	r.Retransmits = retransmits(fds)
	return r, nil
}

// Connect makes connections one after the other: connect, one round trip, close.
func Connect(to netip.AddrPort, size int, d time.Duration) (Result, error) {
	r := Result{Connections: 1}
	out, in := make([]byte, size), make([]byte, size)
	h := newHistogram()
	start := time.Now()
	begin := time.Duration(0)
	for now := time.Duration(0); now < warmUp+d; now = time.Since(start) {
		fd, err := connect(to)
		if err != nil {
			return r, err
		}
		if err := roundTrip(fd, out, in); err != nil {
			return r, fmt.Errorf("%v: %w", to, err)
		}
		_ = unix.Close(fd) // nothing is unread: a FIN
		r.All++
		if done := time.Since(start); now >= warmUp {
			if begin == 0 {
				begin = now
			}
			h.add(done - now)
		}
	}
	h.fill(&r, time.Since(start)-begin)
	return r, nil
}

func connect(to netip.AddrPort) (int, error) {
	fd, err := unix.Socket(family(to), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connect to %v: %w", to, err)
	}
	tune(fd)
	return fd, nil
}

func connectAll(to netip.AddrPort, conns int, events uint32) (ep int, fds []int, err error) {
	if ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return -1, nil, fmt.Errorf("create epoll: %w", err)
	}
	for i := range conns {
		fd, err := connect(to)
		if err == nil {
			fds = append(fds, fd)
			if err = unix.SetNonblock(fd, true); err == nil {
				err = watch(ep, fd, events, int32(i))
			}
		}
		if err != nil {
			closeAll(ep, fds)
			return -1, nil, fmt.Errorf("connection %d of %d: %w", i+1, conns, err)
		}
	}
	return ep, slices.Clip(fds), nil
}

func closeAll(ep int, fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	if ep >= 0 {
		_ = unix.Close(ep)
	}
}

func retransmits(fds []int) (n uint64) {
	for _, fd := range fds {
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n += uint64(info.Total_retrans)
		}
	}
	return n
}

// Hold opens connections one after the other, makes a round trip on each, and
// keeps them.
func Hold(to netip.AddrPort, conns, size int, d time.Duration) (Result, error) {
	out := make([]byte, size)
	return hold(to, conns, d, func(fd int, buf []byte) error { return roundTrip(fd, out, buf[:size]) })
}

func hold(to netip.AddrPort, conns int, d time.Duration, use func(fd int, buf []byte) error) (Result, error) {
	r := Result{Connections: conns}
	buf := make([]byte, maxHead)
	var fds []int
	defer func() { closeAll(-1, fds) }()
	for range conns {
		fd, err := connect(to)
		if err != nil {
			return r, err
		}
		fds = append(fds, fd)
		if err := use(fd, buf); err != nil {
			return r, fmt.Errorf("%v: %w", to, err)
		}
		r.All++
	}
	time.Sleep(d)
	return r, nil
}

func roundTrip(fd int, out, in []byte) error {
	if err := send(fd, out); err != nil {
		return err
	}
	for got := 0; got < len(in); {
		n, err := unix.Read(fd, in[got:])
		if err != nil || n == 0 {
			return fmt.Errorf("read: %w", errors.Join(err, errEnded))
		}
		got += n
	}
	return nil
}
