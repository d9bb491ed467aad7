package netstack

import (
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/packet"
)

const (
	// surgeEvery is how long a side's queue may hold packets without being found
	// empty once before the loop counts as behind; what is under way then waits so
	// long, too.
	surgeEvery = 100 * time.Millisecond
	// surgeLeast is how many SYNs of a side may begin a connection in that time
	// however far behind the loop is. One costs as much as 20 to 40 segments.
	surgeLeast = 8
)

// surge bounds how many SYNs of a side begin a connection while the loop is
// behind: connections that are there go on, and those who are turned away ask
// again. Each interval in which the side's queue never was empty halves what may
// begin; another adds to it, or lifts the bound if nobody met it. Handshakes that end
// well make room for twice as many: a loop that has much to do for clients who mean
// it turns none of those away.
type surge struct {
	end    time.Duration // of the interval
	stands bool          // nobody has found the queue empty in it
	began  int           // SYNs that began a connection in it
	opened int           // handshakes that ended well
	shed   int           // SYNs that did not begin one
	most   int           // of began; 0: no bound
}

// tick begins a new interval when the last is over.
func (s *surge) tick(now time.Duration) {
	if now < s.end {
		return
	}
	switch {
	case s.stands && s.most == 0:
		s.most = max(s.began/2, 2*s.opened, surgeLeast)
	case s.stands:
		s.most = max(s.most/2, 2*s.opened, surgeLeast)
	case s.shed == 0:
		s.most = 0
	default:
		s.most += max(s.most/8, surgeLeast)
	}
	*s = surge{end: now + surgeEvery, stands: true, most: s.most}
}

// full reports whether no more may begin in this interval.
func (s *surge) full() bool { return s.most > 0 && s.began >= max(s.most, 2*s.opened) }

// sheds reports whether a SYN of a side may not begin a connection now, and counts
// it.
func (l *loop) sheds(side aio.Side) bool {
	s := &l.surges[side]
	if !s.full() {
		return false
	}
	s.shed++
	l.drop(side, packet.SYNLimit)
	return true
}
