package load

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// stormRest is how long peers may rest between two storms.
const stormRest = 100 * time.Millisecond

// Storm makes connections all at once, with one round trip on each, and closes them
// when the last was answered; and so on until the time is over. Latency counts from
// the storm's begin: what the clients wait who came back together.
func Storm(to netip.AddrPort, conns, size int, d time.Duration) (Result, error) {
	r := Result{Connections: conns}
	h := newHistogram()
	start := time.Now()
	for time.Since(start) < d {
		if err := storm(to, conns, size, h); err != nil {
			return r, err
		}
		r.All += uint64(conns)
		time.Sleep(stormRest)
	}
	h.fill(&r, time.Since(start))
	r.Rate = 0 // it is the rest's more than the peer's
	return r, nil
}

func storm(to netip.AddrPort, conns, size int, h histogram) error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("create epoll: %w", err)
	}
	c := connects{to: to, ep: ep, out: make([]byte, size), in: make([]byte, size), now: make([]attempt, conns), keep: true}
	defer func() {
		fds := make([]int, 0, conns)
		for _, a := range c.now {
			if a.since >= 0 {
				fds = append(fds, a.fd)
			}
		}
		closeAll(ep, fds)
	}()
	for i := range c.now {
		c.now[i].since = -1 // there is none yet
	}
	start := time.Now()
	for i := range c.now {
		if err := c.open(i, 0); err != nil {
			return err
		}
	}
	events := make([]unix.EpollEvent, 256)
	for left := conns; left > 0; {
		n := wait(ep, events, 100)
		for _, e := range events[:n] {
			done, err := c.event(int(e.Pad))
			if err != nil {
				return err
			}
			if done {
				h.add(time.Since(start))
				left--
			}
		}
		if time.Since(start) > longest {
			return fmt.Errorf("%d of %d connections to %v were not answered within %v", left, conns, to, longest)
		}
	}
	return nil
}
