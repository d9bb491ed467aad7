// Package forward copies opaque bytes between two connections of one loop, in
// both directions, until both are over. It owns backpressure, half-close and
// reset; it refuses to know what the bytes mean and who the ends are.
//
// Each direction is a state machine without a goroutine or a buffer of its own:
//
//	copying ──source's FIN──▶ draining ──all written──▶ done (FIN passed on)
//	   └────────── an end broke, or Abort ──────────▶ both ends reset
//
// Bytes stay in the source connection's receive buffer until the destination
// has room, so an idle pipe costs its struct and a slow reader stops its own
// sender. Only what was read and did not fit is held (at most one scratch
// buffer's worth).
package forward

import (
	"errors"
	"io"

	"github.com/tunmesh/tunmesh/internal/aio"
)

// ErrAborted is the result of a pipe that was ended with Abort.
var ErrAborted = errors.New("forwarding aborted")

// Meter hears of bytes as they move. fromA is the direction a to b.
type Meter interface {
	Forwarded(fromA bool, n int)
}

// Config describes a pipe besides its ends.
type Config struct {
	// Scratch is borrowed during calls only: one buffer serves all pipes of a
	// loop. As large as a packet of segmentation offload, it lets bulk through in
	// few calls.
	Scratch []byte
	// Meter hears of moved bytes; nil: nobody does.
	Meter Meter
	// Done is called once, on the loop, when both ends are over. err is nil
	// after two orderly FINs, else the error of the end that broke first.
	Done func(err error)
}

// A Pipe is two connections that are being joined.
type Pipe struct {
	ab, ba  half
	scratch []byte
	meter   Meter
	done    func(error)
	over    bool
}

// roomer is a connection that knows how many bytes it would take now. 0: none,
// and it says Writable when that has changed. What it has no room for is then not
// read, and need not be held.
type roomer interface{ Room() int }

// half is one direction: from src to dst. It is the handler of src.
type half struct {
	pipe     *Pipe
	peer     *half // the other direction
	src, dst aio.Conn
	copier   aio.Copier // src, when it knows a cheaper way to dst
	roomer   roomer     // dst, when it knows its room
	left     []byte     // read and not yet written
	eof      bool       // src has nothing more
	done     bool       // FIN passed on to dst
}

// Join starts copying between a and b and takes both. They belong to one loop.
func Join(a, b aio.Conn, c Config) *Pipe {
	p := &Pipe{scratch: c.Scratch, meter: c.Meter, done: c.Done}
	p.ab = half{pipe: p, peer: &p.ba, src: a, dst: b}
	p.ba = half{pipe: p, peer: &p.ab, src: b, dst: a}
	p.ab.copier, _ = a.(aio.Copier)
	p.ba.copier, _ = b.(aio.Copier)
	p.ab.roomer, _ = b.(roomer)
	p.ba.roomer, _ = a.(roomer)
	a.SetHandler(&p.ab)
	b.SetHandler(&p.ba)
	return p
}

// Abort resets both ends; Done is called with ErrAborted, before Abort returns.
func (p *Pipe) Abort() { p.fail(ErrAborted) }

// Readable implements aio.Handler.
func (h *half) Readable(aio.Conn) { h.pump() }

// Writable implements aio.Handler: room in src is room for the other direction.
func (h *half) Writable(aio.Conn) { h.peer.pump() }

// Closed implements aio.Handler.
func (h *half) Closed(_ aio.Conn, err error) {
	if err != nil {
		h.pipe.fail(err)
		return
	}
	h.pump()
}

// pump moves what can be moved now.
func (h *half) pump() {
	p := h.pipe
	for !p.over && !h.done {
		if len(h.left) > 0 && !h.flush() {
			return
		}
		if h.eof {
			h.finish()
			return
		}
		n, err := h.move()
		if n > 0 && p.meter != nil {
			p.meter.Forwarded(h == &p.ab, n)
		}
		switch {
		case err == nil && n > 0:
		case err == nil, errors.Is(err, aio.ErrWouldBlock):
			return
		case errors.Is(err, io.EOF):
			h.eof = true
		default:
			p.fail(err)
		}
	}
}

// move takes one step from src to dst. ErrWouldBlock: an end has to wait.
func (h *half) move() (int, error) {
	if h.copier != nil {
		n, err, ok := h.copier.CopyTo(h.dst)
		if ok {
			return int(n), err
		}
		h.copier = nil
	}
	scratch := h.pipe.scratch
	if h.roomer != nil {
		room := h.roomer.Room()
		if room == 0 {
			return 0, aio.ErrWouldBlock
		}
		scratch = scratch[:min(len(scratch), room)]
	}
	n, err := h.src.Read(scratch)
	if n == 0 {
		return 0, err
	}
	w, werr := h.dst.Write(scratch[:n])
	if w < n && errors.Is(werr, aio.ErrWouldBlock) {
		h.left = append(h.left[:0], scratch[w:n]...)
	}
	if werr != nil {
		return n, werr
	}
	return n, err
}

// flush writes what was left; it reports whether all of it went.
func (h *half) flush() bool {
	n, err := h.dst.Write(h.left)
	h.left = h.left[n:]
	switch {
	case err == nil:
		h.left = nil // an idle pipe holds no buffer
		return true
	case !errors.Is(err, aio.ErrWouldBlock):
		h.pipe.fail(err)
	}
	return false
}

// finish passes the FIN on and ends the pipe when that was the second one.
func (h *half) finish() {
	h.done = true
	if err := h.dst.CloseWrite(); err != nil {
		h.pipe.fail(err)
		return
	}
	if h.peer.done {
		h.pipe.end(nil)
	}
}

func (p *Pipe) fail(err error) {
	if p.over {
		return
	}
	p.ab.src.Reset()
	p.ba.src.Reset()
	p.end(err)
}

func (p *Pipe) end(err error) {
	if p.over {
		return
	}
	p.over = true
	p.ab.left, p.ba.left = nil, nil
	if err == nil {
		p.ab.src.Close()
		p.ba.src.Close()
	}
	if p.done != nil {
		p.done(err)
	}
}

var _ aio.Handler = (*half)(nil)
