package netstack

import (
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/packet"
)

const (
	// surgePatience is how long a side's queue may hold packets without being found
	// empty once before the loop counts as behind. It is half of what clients wait
	// before they ask again: who all come back at once after a restart would only lose
	// by being turned away earlier. A flood keeps others waiting so long when it begins.
	surgePatience = 500 * time.Millisecond
	// surgeMemory is how long after a flood there is no such patience: one that comes
	// and goes would have it each time.
	surgeMemory = 10 * time.Second
	// surgeEvery is how often the bound is looked at.
	surgeEvery = 100 * time.Millisecond
	// surgeLeast is how many SYNs of a side may begin a connection in that time
	// however far behind the loop is. One costs as much as 20 to 40 segments.
	surgeLeast = 8
	// surgeTurns is how many turns of a side those of an interval take at least.
	surgeTurns = 128
)

// surge bounds how many SYNs of a side begin a connection while the loop is
// behind: connections that are there go on, and those who are turned away ask
// again. From then on each interval in which the side's queue never was empty halves
// what may begin; another adds to it, or lifts the bound if nobody met it. Handshakes that end
// well make room for twice as many: a loop that has much to do for clients who mean
// it turns hardly any of those away.
type surge struct {
	end    time.Duration // of the interval
	stands bool          // nobody has found the queue empty in it
	behind time.Duration // how long nobody has before it
	strict time.Duration // until when nobody is patient
	began  int           // SYNs that began a connection in it
	opened int           // handshakes that ended well
	shed   int           // SYNs that did not begin one
	most   int           // of began; 0: no bound
	meant  int           // of opened, in the interval before
	passed int           // of began, in this turn of the side
}

// tick begins a turn of the side, and a new interval when the last is over.
func (s *surge) tick(now time.Duration) {
	s.passed = 0
	if now < s.end {
		return
	}
	if s.behind += now - s.end + surgeEvery; !s.stands {
		s.behind = 0
	}
	switch {
	case s.stands && s.most == 0 && s.behind < surgePatience && now >= s.strict:
	case s.stands && s.most == 0:
		s.most = max(s.began/2, 2*s.opened, surgeLeast)
	case s.stands:
		s.most = max(s.most/2, 2*s.opened, surgeLeast)
	case s.shed == 0:
		s.most = 0 // or there was none
	default:
		s.most += max(s.most/8, surgeLeast)
	}
	if s.most > 0 {
		s.strict = now + surgeMemory
	}
	*s = surge{end: now + surgeEvery, stands: true, behind: s.behind, strict: s.strict, most: s.most, meant: s.opened}
}

// begin counts a SYN that begins a connection.
func (s *surge) begin() {
	s.began++
	s.passed++
}

// full reports whether no more may begin in this interval, or in this turn: who is
// under way waits for a few at a time, not for all of an interval's.
func (s *surge) full() bool {
	if s.most == 0 || s.began < 2*max(s.opened, s.meant) {
		return false
	}
	return s.began >= s.most || s.passed >= max(s.most/surgeTurns, 1)
}

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
