package load

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// warmUp is left out of every measurement.
const warmUp = 300 * time.Millisecond

// Result is what a client measured. Latencies are microseconds.
type Result struct {
	Connections int     `json:"connections"`
	Seconds     float64 `json:"seconds"`
	Count       uint64  `json:"count,omitempty"` // round trips or connections after the warm-up
	All         uint64  `json:"all,omitempty"`   // with the warm-up: what the CPU was spent on
	Rate        float64 `json:"rate,omitempty"`  // of Count, per second
	P50         float64 `json:"p50_us,omitempty"`
	P90         float64 `json:"p90_us,omitempty"`
	P99         float64 `json:"p99_us,omitempty"`
	Max         float64 `json:"max_us,omitempty"`
	Gbit        float64 `json:"gbit,omitempty"`
	Retransmits uint64  `json:"retransmits"`
}

// histogram counts latencies in buckets of 100 ns up to 100 ms.
type histogram struct {
	n       [1_000_001]uint32
	total   uint64
	longest time.Duration
}

func (h *histogram) add(d time.Duration) {
	h.n[min(int(d/100), len(h.n)-1)]++
	h.total++
	h.longest = max(h.longest, d)
}

func (h *histogram) at(q float64) float64 {
	want, seen := uint64(float64(h.total)*q), uint64(0)
	for i, n := range h.n {
		if seen += uint64(n); seen > want {
			return float64(i) / 10
		}
	}
	return float64(h.longest) / 1e3
}

func (h *histogram) fill(r *Result, took time.Duration) {
	r.Seconds = took.Seconds()
	r.Count = h.total
	r.Rate = float64(h.total) / took.Seconds()
	r.P50, r.P90, r.P99 = h.at(0.5), h.at(0.9), h.at(0.99)
	r.Max = float64(h.longest) / 1e3
}

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
	var h histogram
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
	var bytes uint64
	for now := time.Duration(0); now < warmUp+d; now = time.Since(start) {
		if begin == 0 && now >= warmUp {
			begin, bytes = now, 0
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
	r.Seconds, r.Gbit = took.Seconds(), float64(bytes)*8/float64(took)
	r.Retransmits = retransmits(fds)
	return r, nil
}

// Connect makes connections one after the other: connect, one round trip, close.
func Connect(to netip.AddrPort, size int, d time.Duration) (Result, error) {
	r := Result{Connections: 1}
	out, in := make([]byte, size), make([]byte, size)
	var h histogram
	start := time.Now()
	begin := time.Duration(0)
	for now := time.Duration(0); now < warmUp+d; now = time.Since(start) {
		fd, err := connect(to)
		if err != nil {
			return r, err
		}
		if err := send(fd, out); err != nil {
			return r, err
		}
		for got := 0; got < size; {
			n, err := unix.Read(fd, in[got:])
			if err != nil || n == 0 {
				return r, fmt.Errorf("read from %v: %w", to, errors.Join(err, errEnded))
			}
			got += n
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
	for _, fd := range append(fds, ep) {
		_ = unix.Close(fd)
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
