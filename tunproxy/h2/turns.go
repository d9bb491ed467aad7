package h2

// turnsPerPass bounds what all connections of a loop parse before others have their
// turn, in frames as framesPerPass has them: with a turn for each, a thousand
// connections would keep the loop for a thousand turns. Whatever comes or goes
// meanwhile waits for the pass to end, a request twice on its way and its response
// twice: two turns are half a millisecond.
// Half of that is for who had a turn before, or waited for one: they come first in a
// pass, and whoever has little to say behind them.
const (
	turnsPerPass  = 2 * framesPerPass
	againsPerPass = turnsPerPass / 2
)

// turns are the connections of a loop that have more to parse than they may in this
// pass. They go on in order: those that had no turn yet before those that had.
type turns struct {
	used    int // frames, in this pass
	waiting []*Conn
	first   int     // of waiting
	paused  []*Conn // those that had a turn
	ending  bool    // onPassEnd is deferred
	// Bound once: each would be an allocation.
	onGo, onPassEnd func()
}

func (t *turns) bind() { t.onGo, t.onPassEnd = t.proceed, t.passEnd }

// over reports that nobody may begin a turn in this pass.
func (t *turns) over() bool { return t.used >= turnsPerPass }

// spend notes frames that c has parsed.
func (t *turns) spend(c *Conn, frames int) {
	if frames > 0 {
		t.used += frames
		t.end(c)
	}
}

// wait lets c begin in another pass.
func (t *turns) wait(c *Conn) {
	c.in.resumes = true
	t.waiting = append(t.waiting, c)
	t.end(c)
}

// pause lets c go on in another pass.
func (t *turns) pause(c *Conn) {
	c.in.resumes = true
	t.paused = append(t.paused, c)
	t.end(c)
}

func (t *turns) end(c *Conn) {
	if !t.ending {
		t.ending = true
		c.loop.Defer(t.onPassEnd)
	}
}

func (t *turns) passEnd() {
	t.used, t.ending = 0, false
	t.waiting = append(t.waiting, t.paused...)
	clear(t.paused)
	t.paused = t.paused[:0]
	if len(t.waiting) > 0 {
		t.waiting[t.first].loop.Post(t.onGo)
	}
}

// proceed gives a turn to each, or to as many as a pass has room for.
func (t *turns) proceed() {
	for t.first < len(t.waiting) && t.used < againsPerPass {
		c := t.waiting[t.first]
		t.waiting[t.first] = nil
		t.first++
		c.resume()
	}
	if t.first > len(t.waiting)/2 {
		n := copy(t.waiting, t.waiting[t.first:])
		clear(t.waiting[n:])
		t.waiting, t.first = t.waiting[:n], 0
	}
	if len(t.waiting) > 0 {
		t.end(t.waiting[t.first])
	}
}
