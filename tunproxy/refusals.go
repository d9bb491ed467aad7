package tunproxy

import (
	"net/netip"
	"time"
)

const (
	// refusedOften is after how many refusals, none of them refusedLately behind the
	// one before, nobody is surprised by another.
	refusedOften  = 64
	refusedLately = 100 * time.Millisecond
	// askEvery is how often the app is then asked.
	askEvery = 5 * time.Millisecond
)

// refusals remember the ports where the app does not listen, while they are asked
// for in masses: each question is a connection of the sidecar's and one of the
// app's kernel. Whoever asks less than once in askEvery notices nothing, and nobody
// waits longer than that for an app that begins to listen.
type refusals struct {
	ports [16]refusal // by number; two that meet forget each other
}

type refusal struct {
	dst  netip.AddrPort
	n    int
	last time.Duration // when the app refused
	ask  time.Duration // when it is asked again
}

func (r *refusals) of(dst netip.AddrPort) *refusal { return &r.ports[int(dst.Port())%len(r.ports)] }

// known reports that the app would refuse. It is asked, by whoever hears that it is
// not known, now and then.
func (r *refusals) known(dst netip.AddrPort, now time.Duration) bool {
	s := r.of(dst)
	if s.dst != dst || s.n < refusedOften || now-s.last > refusedLately {
		return false
	}
	if now >= s.ask {
		s.ask = now + askEvery
		return false
	}
	return true
}

// answered notes what the app said.
func (r *refusals) answered(dst netip.AddrPort, now time.Duration, refused bool) {
	s := r.of(dst)
	switch {
	case !refused && s.dst == dst:
		*s = refusal{}
	case !refused:
	case s.dst != dst || now-s.last > refusedLately:
		*s = refusal{dst: dst, n: 1, last: now}
	default:
		s.n, s.last = s.n+1, now
	}
}
