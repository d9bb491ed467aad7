package exchange

import (
	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/memory"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

const (
	// maxSpare bounds the exchanges kept for another use: more than a loop has
	// under way when it is busy. One is 1 KB, and its field list as much.
	maxSpare = 512
	// maxFields is the longest field list that is kept with one; longer ones are
	// kept apart, and fewer.
	maxFields = 64
	// maxBodies bounds, in bytes, the buffers of request bodies that are kept, and
	// maxBody each: small messages are many, and a large one's cost is its copy.
	maxBodies = 256 << 10
	maxBody   = 4 << 10
)

// Spares are the exchanges of one loop that are over, to be used again. The nil
// Spares keeps none.
//
// An exchange is used again in a later pass than the one in which its last
// stream was released, so that callers up the stack may still look at it.
// Whoever keeps an exchange longer (a timer, a list of those that wait) lets go
// of it when it is told of the end: Opener.Cancel, Endpoint.Ended, Observer.End.
type Spares struct {
	// Bound is how much the loop may hold for peers that are slow, the bodies
	// that exchanges keep included; nil: any number of bytes.
	Bound *memory.Bound

	out   draft
	lists lists
	free  []*Exchange
	// Of this pass: those that are over, and those whose long list is not folded.
	over, unfolded []*Exchange
	bodies         [][]byte
	size           int // of bodies
	sweep          func()
}

// NewSpares makes an empty store for one loop.
func NewSpares() *Spares {
	s := &Spares{}
	s.sweep = s.passEnd
	return s
}

// take is an exchange in its zero state.
func (s *Spares) take() *Exchange {
	if s == nil || len(s.free) == 0 {
		return &Exchange{}
	}
	last := len(s.free) - 1
	x := s.free[last]
	s.free[last] = nil
	s.free = s.free[:last]
	return x
}

// put takes an exchange that nobody calls any more.
func (s *Spares) put(x *Exchange, loop aio.Loop) {
	s.atPassEnd(loop)
	s.over = append(s.over, x)
}

// atPassEnd has passEnd called once; it is called before something is noted for it.
func (s *Spares) atPassEnd(loop aio.Loop) {
	if len(s.over)+len(s.unfolded) == 0 {
		loop.Defer(s.sweep)
	}
}

func (s *Spares) passEnd() {
	for i, x := range s.unfolded {
		s.unfolded[i] = nil
		x.fold()
	}
	s.unfolded = s.unfolded[:0]
	for i, x := range s.over {
		s.over[i] = nil
		if len(s.free) < maxSpare {
			x.clear()
			s.free = append(s.free, x)
		}
	}
	s.over = s.over[:0]
}

// body is an empty buffer.
func (s *Spares) body() []byte {
	if s == nil || len(s.bodies) == 0 {
		return nil
	}
	last := len(s.bodies) - 1
	b := s.bodies[last]
	s.bodies[last] = nil
	s.bodies = s.bodies[:last]
	s.size -= cap(b)
	return b
}

func (s *Spares) freeBody(b []byte) {
	if s != nil && cap(b) > 0 && cap(b) <= maxBody && s.size+cap(b) <= maxBodies {
		s.size += cap(b)
		s.bodies = append(s.bodies, b[:0])
	}
}

// clear makes x what &Exchange{} is, but for the room in its lists.
func (x *Exchange) clear() {
	if x.spareGuard != nil {
		x.spareGuard.clear()
	}
	*x = Exchange{
		spareGuard: x.spareGuard,
		tried:      emptied(x.tried),
		req:        message.Head{Fields: emptied(x.req.Fields)},
		trailers:   emptied(x.trailers),
		res:        Result{Trailers: emptied(x.res.Trailers)},
	}
}

// emptied is l without elements, and without the room of a huge one.
func emptied[T any](l []T) []T {
	if cap(l) > maxFields {
		return nil
	}
	clear(l[:cap(l)])
	return l[:0]
}

// hold keeps body bytes.
func (x *Exchange) hold(p []byte) {
	if x.body == nil {
		x.body = x.cfg.Spares.body()
	}
	x.body = append(x.body, p...)
	if b := x.cfg.Spares.bound(); b != nil {
		b.Hold(len(p))
	}
}

// tight reports whether a body that is kept for another attempt is a luxury: at
// least half of what may be held is.
func (x *Exchange) tight() bool {
	b := x.cfg.Spares.bound()
	return b != nil && !b.Roomy()
}

// tooMuch reports whether a body that waits for an endpoint is more than is
// free, and counts it.
func (x *Exchange) tooMuch() bool {
	b := x.cfg.Spares.bound()
	if b == nil || !b.Over(len(x.body)) {
		return false
	}
	b.Hit()
	return true
}

func (s *Spares) bound() *memory.Bound {
	if s == nil {
		return nil
	}
	return s.Bound
}

func (x *Exchange) dropBody() {
	if b := x.cfg.Spares.bound(); b != nil {
		b.Hold(-len(x.body))
	}
	x.cfg.Spares.freeBody(x.body)
	x.body = nil
}

// leaveUp lets go of an upstream stream that is over.
func (x *Exchange) leaveUp() {
	x.kept = !release(x.up) || x.kept
	x.up, x.upOwed = nil, 0
}

// retire lets go of the streams once nothing can come of them that matters, and
// of x itself.
func (x *Exchange) retire() {
	if !x.over || x.waiting || x.retired || !x.downGone && !(x.reqEnd && x.respEnd) {
		return
	}
	x.retired = true
	x.dropBody()
	if !x.downGone {
		x.releaseDown()
	}
	x.kept = !release(x.down) || x.kept
	if x.up != nil {
		x.leaveUp()
	}
	if s := x.cfg.Spares; s != nil && !x.kept {
		s.put(x, x.cfg.Loop)
	}
}

// release says that nothing is wanted of a stream any more. It reports whether
// the stream will be silent from now on.
func release(s message.Stream) bool {
	r, ok := s.(message.Releaser)
	if ok {
		r.Release()
	}
	return ok
}
