package netstack

import "time"

const (
	// youth is how long a connection is new. Those that are, and SYNs, may take
	// youngTime of each pass, or as long as all else did: who comes in hundreds keeps
	// those who are there waiting for so long.
	youth     = 200 * time.Millisecond
	youngTime = 200 * time.Microsecond
)

// line is who waits for a turn, first come, first served.
type line[T any] struct {
	list []T
	head int // of list: those before it had theirs
}

func (q *line[T]) len() int { return len(q.list) - q.head }

func (q *line[T]) push(v T) {
	if q.head > 0 && len(q.list) == cap(q.list) {
		n := copy(q.list, q.list[q.head:])
		clear(q.list[n:])
		q.list, q.head = q.list[:n], 0
	}
	q.list = append(q.list, v)
}

// pop takes the first; there must be one.
func (q *line[T]) pop() T {
	v := q.list[q.head]
	clear(q.list[q.head : q.head+1])
	if q.head++; q.head == len(q.list) {
		q.list, q.head = q.list[:0], 0
	}
	return v
}

// turn lets the first in line go on, and then others of those who are there now, while
// there is time.
func (q *line[T]) turn(c *clock, until time.Duration, goOn func(T)) {
	for i := q.len(); i > 0; i-- {
		if goOn(q.pop()); c.read() >= until {
			return
		}
	}
}

// young is what waits until all else of a pass is done.
type young struct {
	conns line[*conn]
	syns  [2]line[*Pending] // that OnSYN has not been asked about
}

func (y *young) len() int { return y.conns.len() + y.syns[0].len() + y.syns[1].len() }

// isYoung reports whether the connection waits for its turn after those that have
// been there for longer. At the end nobody does: all are told.
func (c *conn) isYoung() bool { return c.l.clock.now-c.began < youth && !c.l.ending }

// youngTurn lets those who are new go on until then, all that there are if possible:
// what they make ready is done together. One of each line has its turn in any case.
func (l *loop) youngTurn(until time.Duration) {
	l.young.conns.turn(l.clock, until, (*conn).deliver)
	for side := range l.young.syns {
		l.young.syns[side].turn(l.clock, until, l.ask)
	}
}

// ask asks about a SYN, unless it was dropped or has expired meanwhile.
func (l *loop) ask(p *Pending) {
	if p.syn != nil {
		l.s.cfg.OnSYN(p)
	}
}

// grow ends everybody's youth.
func (l *loop) grow() {
	for l.young.conns.len() > 0 {
		l.ready = append(l.ready, l.young.conns.pop())
	}
}
