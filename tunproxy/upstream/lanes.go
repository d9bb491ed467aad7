package upstream

import (
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/lane"
)

const (
	// laneIdle is how long a lane without a stream is kept; servers keep theirs
	// three times as long, so that it is the client who ends an idle one.
	laneIdle = 5 * time.Second
	// laneAge bounds how long a lane serves new streams: peers prove again who
	// they are that often.
	laneAge = 10 * time.Minute
	// maxIdleLanes and maxIdleLanesEach bound the idle lanes of a loop and of an
	// endpoint; each costs about 20 KB on either side. 1,000 connections per
	// second that last 10 ms need ten.
	maxIdleLanes     = 256
	maxIdleLanesEach = 64
)

// Lanes are the idle byte hops of one loop: a connection of the app takes one
// instead of a connect and a handshake, and gives it back.
type Lanes struct {
	loop     aio.Loop
	idle     map[Endpoint][]*idleLane // the last is the one used last
	n        int
	sweeping bool
}

// idleLane is one lane, idle or not, as its owner.
type idleLane struct {
	lanes *Lanes
	e     Endpoint
	lane  *lane.Lane
	made  time.Duration
	since time.Duration // idle since
}

// NewLanes makes an empty stock.
func NewLanes(loop aio.Loop) *Lanes {
	return &Lanes{loop: loop, idle: make(map[Endpoint][]*idleLane)}
}

// Adopt makes a lane of c, a secured connection to e for bytes, and returns its
// first stream. Once that is over, Take finds the lane.
func (s *Lanes) Adopt(e Endpoint, c aio.Conn) *lane.Stream {
	return lane.Client(c, &idleLane{lanes: s, e: e, made: s.loop.Now()})
}

// Take returns an idle lane to e that is still good, or nil.
func (s *Lanes) Take(e Endpoint) *lane.Lane {
	for {
		list := s.idle[e]
		if len(list) == 0 {
			return nil
		}
		l := list[len(list)-1]
		s.remove(l)
		if l.good() {
			return l.lane
		}
		l.lane.Close()
	}
}

// Len is the number of idle lanes.
func (s *Lanes) Len() int { return s.n }

// good reports whether a lane may carry another stream: it was made not long
// ago, and by the certificates that are in force.
func (l *idleLane) good() bool {
	c, ok := l.lane.Conn().(interface{ Current() bool })
	return l.lanes.loop.Now()-l.made < laneAge && (!ok || c.Current())
}

// Idle implements lane.Owner.
func (l *idleLane) Idle(ln *lane.Lane) {
	s := l.lanes
	l.lane, l.since = ln, s.loop.Now()
	if s.n >= maxIdleLanes || len(s.idle[l.e]) >= maxIdleLanesEach || !l.good() {
		ln.Close()
		return
	}
	s.idle[l.e] = append(s.idle[l.e], l)
	s.n++
	if !s.sweeping {
		s.sweeping = true
		s.loop.AfterFunc(laneIdle, s.sweep)
	}
}

// Asked implements lane.Owner: only servers are asked.
func (l *idleLane) Asked(*lane.Lane) {}

// Gone implements lane.Owner.
func (l *idleLane) Gone(*lane.Lane) { l.lanes.remove(l) }

// remove takes a lane out of the stock if it is there.
func (s *Lanes) remove(l *idleLane) {
	list := s.idle[l.e]
	for i := len(list) - 1; i >= 0; i-- {
		if list[i] == l {
			copy(list[i:], list[i+1:])
			list[len(list)-1] = nil
			s.n--
			if s.idle[l.e] = list[:len(list)-1]; len(list) == 1 {
				delete(s.idle, l.e)
			}
			return
		}
	}
}

// sweep ends what was idle for long.
func (s *Lanes) sweep() {
	now := s.loop.Now()
	var old []*idleLane
	for _, list := range s.idle {
		for _, l := range list {
			if now-l.since < laneIdle && l.good() {
				break // the rest is younger
			}
			old = append(old, l)
		}
	}
	for _, l := range old {
		l.lane.Close()
	}
	if s.sweeping = s.n > 0; s.sweeping {
		s.loop.AfterFunc(laneIdle/5, s.sweep)
	}
}

var _ lane.Owner = (*idleLane)(nil)
