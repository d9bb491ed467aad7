package netstack

import "time"

const (
	// youth is how long a connection is new. Those that are, and SYNs, may take
	// youngTime of each pass, or as long as all else did: who comes in hundreds keeps
	// those who are there waiting for so long.
	youth     = 200 * time.Millisecond
	youngTime = 200 * time.Microsecond
	// youngAtOnce is how many have their turn between two looks at the time.
	youngAtOnce = 2
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
// what they make ready is done together. A SYN of each side has its turn in any case.
func (l *loop) youngTurn(until time.Duration) {
	y := &l.young
	for i := y.conns.len(); i > 0; i-- {
		y.conns.pop().deliver()
		if i%youngAtOnce == 0 && l.clock.read() >= until {
			break
		}
	}
	for side := range y.syns {
		for i := y.syns[side].len(); i > 0; i-- {
			if p := y.syns[side].pop(); p.syn != nil { // neither dropped nor expired meanwhile
				l.s.cfg.OnSYN(p)
			}
			if l.clock.read() >= until {
				break
			}
		}
	}
}

// grow ends everybody's youth.
func (l *loop) grow() {
	for l.young.conns.len() > 0 {
		l.ready = append(l.ready, l.young.conns.pop())
	}
}
