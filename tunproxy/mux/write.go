package mux

import (
	"errors"
	"fmt"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
)

const (
	// joinSize is up to where bytes are copied to other frames, to leave with them.
	joinSize = 4 << 10
	// outSize bounds the frames that wait for the end of the pass.
	outSize = 64 << 10
	// maxAnswers bounds the frames that a peer does not take while it makes us say
	// more.
	maxAnswers = 512 << 10
	// quantum is what a stream may write in its turn while others wait: what makes
	// a connection that was full writable again. With 64 KB the apps' connections
	// are read, and their windows opened, in pieces so small that there is half as
	// much again of packets.
	quantum = 256 << 10
	// bulkBytes in less than bulkWithin make a stream's hop one to avoid for bulkFor.
	bulkBytes  = 1 << 20
	bulkWithin = time.Second
	bulkFor    = 5 * time.Second
)

// writer is the sending half of a hop.
type writer struct {
	out       []byte    // frames, or the rest of some, that have not left
	scheduled bool      // push will be called at the end of the pass
	stuck     bool      // the connection has no room; Writable goes on
	waiting   []*Stream // that want to write, in order
	turn      *Stream   // whose turn it is
	quantum   int       // what it may write while others wait
	head      [headerLen]byte
	wrote     uint64
}

// gatherer is a connection that writes two pieces as one; *mtls.Conn is.
type gatherer interface {
	// WriteParts takes both pieces whole, or nothing with ErrWouldBlock.
	WriteParts(head, body []byte) error
}

// say sends a frame without bytes.
func (h *Hop) say(f frame) {
	if h.gone {
		return
	}
	h.room()
	if h.out = f.append(h.out); len(h.out) > maxAnswers {
		// The streams' handlers are not called from inside.
		h.c.Loop().Post(func() { h.breach(fmt.Errorf("%w: answers are not read", ErrFlood)) })
	}
	h.schedule()
}

// room gives out a buffer.
func (h *Hop) room() {
	if h.out == nil {
		h.out, h.shared.spare = h.shared.spare, nil
	}
}

func (h *Hop) schedule() {
	if !h.scheduled && !h.stuck {
		h.scheduled = true
		h.c.Loop().Defer(h.push)
	}
}

// push writes what has gathered, and then lets those write who wait.
func (h *Hop) push() {
	h.scheduled = false
	for !h.gone && h.flush() && len(h.waiting) > 0 {
		s := h.waiting[0]
		h.waiting[0] = nil
		if h.waiting = h.waiting[1:]; len(h.waiting) == 0 {
			h.waiting = nil
		}
		s.queued = false
		h.turn, h.quantum = s, quantum
		s.room()
		h.turn = nil
	}
	if h.full && len(h.streams) == 0 && len(h.out) == 0 {
		h.Close()
	}
}

// flush writes what has gathered; it reports whether all of it went.
func (h *Hop) flush() bool {
	if len(h.out) > 0 && !h.stuck {
		n, err := h.c.Write(h.out)
		h.wrote += uint64(n)
		if n < len(h.out) {
			h.out = h.out[n:]
			h.stuck = errors.Is(err, aio.ErrWouldBlock) // else: the end will be told
			return false
		}
		if cap(h.out) <= 2*outSize {
			h.shared.spare = h.out[:0]
		}
		h.out = nil
	}
	return len(h.out) == 0 && !h.stuck
}

// data sends p, not longer than allowed, as one frame; or nothing, and puts s among
// those who wait.
func (h *Hop) data(s *Stream, p []byte) error {
	if h.gone {
		return aio.ErrReset
	}
	short := len(p) <= joinSize
	f := frame{kindData, len(p), s.id}
	g, gathers := h.c.(gatherer)
	switch {
	case short || !gathers:
		h.room()
		h.out = append(f.append(h.out), p...)
		h.schedule()
	case !h.flush():
		h.wait(s)
		return aio.ErrWouldBlock
	default:
		f.append(h.head[:0])
		if err := g.WriteParts(h.head[:], p); err != nil {
			if errors.Is(err, aio.ErrWouldBlock) {
				h.stuck = true
				h.wait(s)
			}
			return err
		}
		h.wrote += uint64(headerLen + len(p))
	}
	h.quantum -= len(p)
	return nil
}

// allows is how many bytes s may write now in one frame. Whoever moves little says
// it at once, and before the bytes of others that wait for room.
func (h *Hop) allows(s *Stream) int {
	switch {
	case h.gone:
		return MaxData // data says why not
	case len(h.out) >= outSize:
		return 0
	case !h.stuck && (len(h.waiting) == 0 || h.turn == s && h.quantum > 0):
		return MaxData
	case !s.bulk:
		return joinSize
	}
	return 0
}

// wait puts s at the end of those who wait.
func (h *Hop) wait(s *Stream) {
	if !s.queued {
		s.queued = true
		h.waiting = append(h.waiting, s)
	}
	h.schedule()
}
