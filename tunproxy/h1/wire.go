package h1

import (
	"errors"
	"io"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// engine is what a server and a client do differently with a connection.
type engine interface {
	// want is how many bytes could be used now; 0: none, somebody has to act first.
	want() int
	// parse uses what it can of b, all that is there; more: it needs bytes behind
	// b to go on. It is called while want is positive, and makes progress or asks
	// for more each time.
	parse(b []byte) (n int, more bool)
	// ended: the peer half-closed, and the unused rest of b stands before that.
	ended(rest int)
	// wrote: output has left; drained of it is told separately.
	wrote()
	// due returns when something has to have happened, 0 for never; expired is
	// called when it has not.
	due() time.Duration
	expired()
	// broken: the connection is over; err is nil after an orderly end. Last call.
	broken(err error)
}

// pushSize is how much is written before the end of a pass: with what a body's
// next piece adds, it fills a packet of segmentation offload.
const pushSize = 48 << 10

// mark is a place in the output at which a stream's body bytes have left.
type mark struct {
	at uint64
	n  int
	s  *stream
}

// wire reads, writes and keeps time for one connection.
type wire struct {
	conn aio.Conn
	loop aio.Loop
	cfg  Config
	e    engine

	in      []byte // received and not used, in[off:]; nil nearly always
	off     int
	scanned int // of what is unused, searched for a head's end
	eof     bool

	out     []byte // to be written, out[outOff:]
	outOff  int
	queued  uint64 // bytes ever appended to out
	sent    uint64 // bytes ever taken by the transport
	marks   []mark
	graves  []*stream     // released, to be used again
	blocked bool          // a write was short
	full    bool          // one of push was; flush asks again
	writeBy time.Duration // while blocked: when the transport must have taken more
	raw     bool          // bytes of another protocol, which may rest
	held    int           // of out, as accounted
	since   time.Duration // when the state that due looks at last made progress

	scheduled bool
	passing   bool
	pumping   bool
	halfClose bool // send FIN when out is empty
	hangUp    bool // close when out is empty
	over      bool // closed or broken; broken was, or is about to be, called
	told      bool // cfg.OnClose was called
	overErr   error

	timer   aio.Timer
	timerAt time.Duration
	onTimer func()
	onPass  func()
}

func (w *wire) start(conn aio.Conn, cfg Config, e engine) {
	w.conn, w.loop, w.cfg, w.e = conn, conn.Loop(), cfg, e
	w.onTimer, w.onPass = w.tick, w.pass
	w.rearm()
	conn.SetHandler(w)
}

// Readable implements aio.Handler.
func (w *wire) Readable(aio.Conn) { w.pump() }

// Writable implements aio.Handler.
func (w *wire) Writable(aio.Conn) { w.schedule() }

// Closed implements aio.Handler.
func (w *wire) Closed(_ aio.Conn, err error) {
	if w.over {
		return
	}
	if err == nil {
		// Both directions ended and are read, but bytes may be left to use, now
		// or when a receiver has room for them.
		w.eof = true
		w.pump()
		if w.off < len(w.in) && !w.over {
			return
		}
	}
	w.fail(err)
	w.finish()
}

// schedule asks for a pass over output and input at the end of this one.
func (w *wire) schedule() {
	if !w.scheduled {
		w.scheduled = true
		w.loop.Defer(w.onPass)
	}
}

func (w *wire) pass() {
	w.scheduled = false
	w.passing = true
	w.flush()
	w.pump()
	w.finish()
	w.passing = false
	for i, s := range w.graves {
		w.graves[i] = nil
		w.cfg.Buffers.freeStream(s)
	}
	w.graves = w.graves[:0]
}

// bury makes s available again once nobody knows it any more. That happens at the
// end of a pass: callers up the stack may still hold it.
func (w *wire) bury(s *stream) {
	if !s.released || s.marks > 0 || s.pinned {
		return
	}
	s.pinned = true // only once
	w.graves = append(w.graves, s)
	if !w.passing {
		w.schedule()
	}
}

// finish delivers the end, from a pass and never from inside a user's call.
func (w *wire) finish() {
	if !w.over || w.told {
		return
	}
	w.told = true
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	w.e.broken(w.overErr)
	w.dropIn()
	w.dropOut()
	if w.cfg.OnClose != nil {
		w.cfg.OnClose(w.overErr)
	}
}

// fail ends the connection; finish tells everybody.
func (w *wire) fail(err error) {
	if w.over {
		return
	}
	w.over, w.overErr = true, err
	if err == nil {
		w.conn.Close()
	} else {
		w.conn.Reset()
	}
	w.schedule()
}

// pump reads and parses until there is nothing to read or to do.
func (w *wire) pump() {
	if w.pumping || w.over {
		return
	}
	w.pumping = true
	for !w.over && w.turn() {
	}
	w.pumping = false
	if !w.over {
		w.rearm()
	}
}

// turn makes one step and reports whether another may follow.
func (w *wire) turn() bool {
	limit := w.e.want()
	if limit == 0 {
		return false
	}
	if w.off < len(w.in) {
		n, more := w.e.parse(w.in[w.off:])
		w.used(n)
		if !more || w.over {
			return true
		}
		return w.readMore()
	}
	if w.eof {
		w.e.ended(0)
		return false
	}
	buf := w.cfg.Buffers.read()
	buf = buf[:min(limit, len(buf))]
	n, err := w.conn.Read(buf)
	if n == 0 {
		return w.readFailed(err)
	}
	w.use(buf[:n])
	return true
}

// use parses bytes in the shared buffer and keeps what is left.
func (w *wire) use(b []byte) {
	for len(b) > 0 && !w.over && w.e.want() > 0 {
		n, more := w.e.parse(b)
		b = b[n:]
		if more {
			break
		}
	}
	if len(b) > 0 && !w.over {
		w.in = append(w.cfg.Buffers.block(len(b)), b...)
		w.off = 0
	}
}

// readMore appends to what is incomplete.
func (w *wire) readMore() bool {
	if w.over {
		return false
	}
	if w.eof {
		w.e.ended(len(w.in) - w.off)
		return false
	}
	if len(w.in) == cap(w.in) {
		bigger := w.cfg.Buffers.block(max(2*(len(w.in)-w.off), blockSize))
		bigger = append(bigger, w.in[w.off:]...)
		w.cfg.Buffers.recycle(w.in)
		w.in, w.off = bigger, 0
	}
	n, err := w.conn.Read(w.in[len(w.in):cap(w.in)])
	w.in = w.in[:len(w.in)+n]
	return n > 0 || w.readFailed(err)
}

func (w *wire) readFailed(err error) bool {
	switch {
	case errors.Is(err, aio.ErrWouldBlock):
		return false
	case errors.Is(err, io.EOF):
		w.eof = true
		return true
	default:
		w.fail(err)
		return false
	}
}

func (w *wire) used(n int) {
	if w.off += n; w.off >= len(w.in) {
		w.dropIn()
	}
}

func (w *wire) dropIn() {
	if w.in != nil {
		w.cfg.Buffers.recycle(w.in)
		w.in, w.off = nil, 0
	}
}

// buffer is the output to append to; commit gives it back. Anything appended is
// written at the end of the pass.
func (w *wire) buffer(n int) []byte {
	if w.out == nil {
		w.out = w.cfg.Buffers.block(n)
	} else if w.outOff > 0 && len(w.out)+n > cap(w.out) {
		// What is written already makes room before the buffer grows.
		w.out = w.out[:copy(w.out, w.out[w.outOff:])]
		w.outOff = 0
	}
	w.out = w.cfg.Buffers.grow(w.out, n)
	return w.out
}

func (w *wire) commit(out []byte) {
	w.queued += uint64(len(out) - len(w.out))
	w.out = out
	w.schedule()
	if w.pending() >= pushSize && !w.full && !w.blocked {
		w.push()
	}
}

// push writes early what would otherwise gather until the end of the pass: a
// megabyte of a body in one buffer is out of every cache when it is written, and
// costs the collector more than that. The end of the pass finds errors and
// reports what left.
func (w *wire) push() {
	n, err := w.conn.Write(w.out[w.outOff:])
	w.outOff += n
	w.sent += uint64(n)
	w.full = err != nil
	if w.pending() == 0 {
		w.out, w.outOff = w.out[:0], 0
	}
}

// pending is the number of bytes not yet taken by the transport.
func (w *wire) pending() int { return len(w.out) - w.outOff }

func (w *wire) dropOut() {
	if w.out != nil {
		w.cfg.Buffers.recycle(w.out)
		w.out, w.outOff = nil, 0
	}
	w.hold()
	for i := range w.marks {
		if s := w.marks[i].s; s != nil { // else report has it
			s.marks--
			w.marks[i] = mark{}
		}
	}
	w.marks = w.marks[:0]
}

// flush writes what there is and tells streams what of theirs has left.
func (w *wire) flush() {
	if w.over {
		return
	}
	was, before := w.blocked, w.sent
	w.blocked, w.full = false, false
	for w.pending() > 0 {
		n, err := w.conn.Write(w.out[w.outOff:])
		w.outOff += n
		w.sent += uint64(n)
		if err != nil && !errors.Is(err, aio.ErrWouldBlock) {
			w.fail(err)
			return
		}
		if err != nil || n == 0 {
			w.blocked = true
			if was {
				w.earn(&w.writeBy, int(w.sent-before), w.cfg.WriteTimeout)
			} else {
				w.writeBy = w.loop.Now() + w.cfg.WriteTimeout
			}
			w.rearm()
			break
		}
	}
	if w.pending() == 0 && w.out != nil {
		w.cfg.Buffers.recycle(w.out)
		w.out, w.outOff = nil, 0
	}
	if w.hold(); w.over {
		return
	}
	w.report()
	if w.pending() > 0 || w.over {
		return
	}
	w.e.wrote()
	if w.pending() > 0 || w.over {
		return
	}
	switch {
	case w.hangUp:
		w.fail(nil)
	case w.halfClose:
		w.halfClose = false
		if err := w.conn.CloseWrite(); err != nil && !errors.Is(err, aio.ErrClosed) {
			w.fail(err)
		}
	}
}

// report tells streams what has left, oldest first. A receiver may send more
// meanwhile: marks are taken off before the call.
func (w *wire) report() {
	done := 0
	for done < len(w.marks) && w.marks[done].at <= w.sent {
		m := w.marks[done]
		w.marks[done] = mark{}
		done++
		m.s.drained(m.n)
	}
	if done > 0 && len(w.marks) > 0 {
		kept := copy(w.marks, w.marks[min(done, len(w.marks)):])
		clear(w.marks[kept:])
		w.marks = w.marks[:kept]
	}
}

// rearm makes sure that the timer fires no later than anything is due. Deadlines
// that move away do not touch the timer: it looks again when it fires.
func (w *wire) rearm() {
	at := w.nextDue()
	if at == 0 || w.timer != nil && w.timerAt <= at || w.over {
		return
	}
	if w.timer != nil {
		w.timer.Stop()
	}
	w.timerAt = at
	w.timer = w.loop.AfterFunc(max(at-w.loop.Now(), 0), w.onTimer)
}

func (w *wire) nextDue() time.Duration {
	at := w.e.due()
	if w.blocked && !w.raw && (at == 0 || w.writeBy < at) {
		at = w.writeBy
	}
	return at
}

func (w *wire) tick() {
	w.timer = nil
	if w.over {
		return
	}
	now := w.loop.Now()
	if w.blocked && !w.raw && now >= w.writeBy {
		w.cfg.Counters.SlowReaders.Add(1)
		w.fail(ErrTimeout)
	} else if at := w.e.due(); at != 0 && now >= at {
		w.e.expired()
	}
	w.finish()
	w.rearm()
}

// headAt finds and copies the head at the start of b. It returns 0 while the
// head is incomplete, and an error as soon as it can't become a good one.
func (w *wire) headAt(b []byte) (s string, err *Error) {
	n := findEnd(b, w.scanned)
	if n == 0 || n > w.cfg.MaxHead {
		if len(b) > w.cfg.MaxHead {
			return "", errHeadSize
		}
		if lonelyLF(b, w.scanned) {
			return "", errBareLF
		}
		w.scanned = len(b)
		return "", nil
	}
	w.scanned = 0
	return string(b[:n]), nil
}

var _ aio.Handler = (*wire)(nil)

// noReceiver ends streams that nobody took.
type noReceiver struct{}

func (noReceiver) Head(s message.Stream, _ *message.Head, _ bool) { s.Abort(message.Cancel) }
func (noReceiver) Data(message.Stream, []byte, bool)              {}
func (noReceiver) Trailers(message.Stream, []message.Field)       {}
func (noReceiver) Drained(message.Stream, int)                    {}
func (noReceiver) Aborted(message.Stream, message.Code, error)    {}
