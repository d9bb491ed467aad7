package upstream

import (
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/mux"
)

const (
	// hopIdle is how long a byte hop without a stream is kept; servers keep theirs
	// three times as long, so that it is the client who ends an idle one.
	hopIdle = 5 * time.Second
	// hopAge bounds how long a hop takes new streams: peers prove again who they
	// are that often.
	hopAge = 10 * time.Minute
	// spreadHops is over how many hops to one endpoint streams are spread, once
	// each has spreadFrom of them. One would have the fewest packets, and eight bulk
	// streams on it a fifth less than on hops of their own; on four they have as much.
	spreadHops = 4
	spreadFrom = 2
	// maxHops bounds the hops to one endpoint that new streams are spread over
	// because others carry bulk.
	maxHops = 8
	// hopWait bounds the wait for a hop that another connection of the app makes.
	hopWait = time.Second
)

// Hops are the byte hops of one loop to other sidecars: many connections of the
// app share one.
type Hops struct {
	loop     aio.Loop
	shared   *mux.Shared
	ends     map[Endpoint]*hopsTo
	sweeping bool
}

// hopsTo are the hops to one endpoint.
type hopsTo struct {
	hops    []*byteHop
	making  int
	waiting []*hopWaiter // in order
}

// hopWaiter waits for a hop that is being made.
type hopWaiter struct {
	f     func()
	timer aio.Timer
}

// byteHop is one hop's owner.
type byteHop struct {
	hops  *Hops
	e     Endpoint
	mux   *mux.Hop
	made  time.Duration
	since time.Duration // idle since
}

// NewHops makes an empty stock.
func NewHops(loop aio.Loop, shared *mux.Shared) *Hops {
	return &Hops{loop: loop, shared: shared, ends: make(map[Endpoint]*hopsTo)}
}

// Adopt makes a hop of c, a secured connection to e for bytes, and returns its
// first stream. Take finds the hop from now on.
func (s *Hops) Adopt(e Endpoint, c aio.Conn) *mux.Stream {
	h := &byteHop{hops: s, e: e, made: s.loop.Now()}
	h.mux = mux.Client(c, s.shared, h)
	to := s.to(e)
	to.hops = append(to.hops, h)
	return h.mux.First()
}

func (s *Hops) to(e Endpoint) *hopsTo {
	to := s.ends[e]
	if to == nil {
		to = &hopsTo{}
		s.ends[e] = to
	}
	return to
}

// Take returns a hop to e with room for a stream, or nil: make one. It is the one
// with the fewest streams of those without bulk; another one is better while there
// are few, or where all carry bulk, up to a point.
func (s *Hops) Take(e Endpoint) *mux.Hop {
	to := s.ends[e]
	if to == nil {
		return nil
	}
	var calm, busy *mux.Hop
	good, all := 0, 0
	for i := len(to.hops) - 1; i >= 0; i-- { // Close may take this one out
		switch h := to.hops[i]; {
		case !h.good():
			h.mux.Close()
		case !h.mux.Room():
		case h.mux.Bulk():
			busy = fewer(busy, h.mux)
			all++
		default:
			calm = fewer(calm, h.mux)
			good++
			all++
		}
	}
	switch {
	case calm != nil && (good >= spreadHops || calm.Len() < spreadFrom):
		return calm
	case all < maxHops:
		return nil
	}
	return fewer(calm, busy)
}

// fewer is whichever has fewer streams; either may be nil.
func fewer(a, b *mux.Hop) *mux.Hop {
	if a == nil || b != nil && b.Len() < a.Len() {
		return b
	}
	return a
}

// Making says that a hop to e is being made, Made that this is over, in whichever
// way.
func (s *Hops) Making(e Endpoint) { s.to(e).making++ }

// Made is described at Making.
func (s *Hops) Made(e Endpoint) {
	to := s.ends[e]
	to.making--
	waiting := to.waiting
	to.waiting = nil
	for _, w := range waiting {
		w.timer.Stop()
		s.loop.Post(w.f)
	}
	s.tidy(e)
}

// Wait calls f, on the loop and not from inside, when a hop to e that is being
// made is there, or failed, or takes long. false: none is being made.
func (s *Hops) Wait(e Endpoint, f func()) bool {
	to := s.ends[e]
	if to == nil || to.making == 0 {
		return false
	}
	w := &hopWaiter{f: f}
	w.timer = s.loop.AfterFunc(hopWait, func() {
		for i := range to.waiting {
			if to.waiting[i] == w {
				to.waiting = append(to.waiting[:i], to.waiting[i+1:]...)
				break
			}
		}
		f()
	})
	to.waiting = append(to.waiting, w)
	return true
}

// Len is the number of hops.
func (s *Hops) Len() (n int) {
	for _, to := range s.ends {
		n += len(to.hops)
	}
	return n
}

// good reports whether a hop may carry another stream: it was made not long ago,
// and by the certificates that are in force.
func (h *byteHop) good() bool {
	c, ok := h.mux.Conn().(interface{ Current() bool })
	return h.hops.loop.Now()-h.made < hopAge && (!ok || c.Current())
}

// Asked implements mux.Owner: only servers are asked.
func (h *byteHop) Asked(*mux.Stream) {}

// Idle implements mux.Owner.
func (h *byteHop) Idle(*mux.Hop) {
	s := h.hops
	if h.since = s.loop.Now(); !s.sweeping {
		s.sweeping = true
		s.loop.AfterFunc(hopIdle, s.sweep)
	}
}

// Gone implements mux.Owner.
func (h *byteHop) Gone(*mux.Hop, error) {
	to := h.hops.ends[h.e]
	for i := range to.hops {
		if to.hops[i] == h {
			copy(to.hops[i:], to.hops[i+1:])
			to.hops[len(to.hops)-1] = nil
			to.hops = to.hops[:len(to.hops)-1]
			break
		}
	}
	h.hops.tidy(h.e)
}

func (s *Hops) tidy(e Endpoint) {
	if to := s.ends[e]; len(to.hops)+to.making+len(to.waiting) == 0 {
		delete(s.ends, e)
	}
}

// sweep ends what was idle for long.
func (s *Hops) sweep() {
	now := s.loop.Now()
	s.sweeping = false
	var old []*byteHop
	for _, to := range s.ends {
		for _, h := range to.hops {
			switch {
			case h.mux.Len() > 0:
			case now-h.since >= hopIdle || !h.good():
				old = append(old, h)
			default:
				s.sweeping = true
			}
		}
	}
	for _, h := range old {
		h.mux.Close()
	}
	if s.sweeping {
		s.loop.AfterFunc(hopIdle/5, s.sweep)
	}
}

var _ mux.Owner = (*byteHop)(nil)
