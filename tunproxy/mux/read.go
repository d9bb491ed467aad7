package mux

import (
	"errors"
	"fmt"
	"io"

	"github.com/tunmesh/tunmesh/internal/aio"
)

const (
	// readsPerPass bounds what a hop takes before other connections have their
	// turn: half a megabyte.
	readsPerPass = 4
	// realign: a frame of which so much is missing is read to its end alone, so
	// that the next ones come whole and go on whole.
	realign = 8 << 10
	// maxAsked bounds the streams of a hop that wait for an answer.
	maxAsked = 1024
	// strays is how many frames of streams that are over a peer may send beyond
	// what crossed with their end.
	strays = 1024
	// creditEvery is how many bytes of ours a peer has to have taken for each
	// CREDIT, beyond the first few: an eighth of what we ask of ourselves.
	creditEvery = baseWindow / 16
	freeCredits = 64
	// maxHasty bounds the streams of a hop that were reset before their answer, at
	// once and for each stream that was not.
	maxHasty = 10_000
)

// reader is the receiving half of a hop.
type reader struct {
	hdr  [headerLen]byte // of the frame that is being read
	got  int             // bytes of hdr
	left int             // bytes of the DATA that is being read
	more bool            // resume is posted
	into *Stream         // whose they are; nil: nobody's any more

	stray  uint64 // frames of streams that are over
	hasty  int    // streams reset before they had an answer
	opened int    // and those that got one
}

// read takes what the connection has.
func (h *Hop) read() {
	for range readsPerPass {
		if h.gone {
			return
		}
		b := h.shared.in
		if h.left >= realign && h.left < len(b) {
			b = b[:h.left]
		}
		n, err := h.c.Read(b)
		if n > 0 {
			h.take(b[:n])
			continue
		}
		switch {
		case err == nil, errors.Is(err, aio.ErrWouldBlock):
		case errors.Is(err, io.EOF) && len(h.streams) == 0 && h.left+h.got == 0:
			h.Close()
		case errors.Is(err, io.EOF):
			h.abort(errTruncated)
		default:
			h.abort(err)
		}
		return
	}
	h.more = h.c.Loop().Post(h.resume)
}

// resume goes on reading after other connections had their turn.
func (h *Hop) resume() {
	h.more = false
	h.read()
}

// take goes through received bytes, frame by frame.
func (h *Hop) take(b []byte) {
	h.heard = h.c.Loop().Now()
	for len(b) > 0 && !h.gone {
		if h.left > 0 {
			n := min(h.left, len(b))
			h.left -= n
			if h.into != nil {
				h.into.receive(b[:n])
			}
			b = b[n:]
			continue
		}
		head := b
		if h.got == 0 && len(b) >= headerLen {
			b = b[headerLen:]
		} else {
			k := copy(h.hdr[h.got:], b)
			b = b[k:]
			if h.got += k; h.got < headerLen {
				return
			}
			head, h.got = h.hdr[:], 0
		}
		f, err := parse(head)
		if err == nil {
			err = h.frame(f)
		}
		if err != nil {
			h.breach(err)
		}
	}
}

// frame takes a header.
func (h *Hop) frame(f frame) error {
	if f.kind == kindOpen {
		return h.open(f)
	}
	s := h.streams[f.id]
	if s == nil {
		return h.past(f)
	}
	switch f.kind {
	case kindData:
		if s.finIn || f.n > s.promised {
			return fmt.Errorf("%w: %d bytes where %d may come", errFrame, f.n, s.promised)
		}
		s.promised -= f.n
		h.left, h.into = f.n, s
	case kindFin:
		if s.finIn {
			return fmt.Errorf("%w: a second FIN", errFrame)
		}
		s.ended()
	case kindReset:
		if s.state == asking {
			return fmt.Errorf("%w: RESET for an answer", errFrame)
		}
		if s.state == asked {
			if h.hasty++; h.hasty > maxHasty+h.opened {
				return fmt.Errorf("%w: streams that are reset at once", ErrFlood)
			}
		}
		h.forget(s)
		s.broke(aio.ErrReset)
	case kindCredit:
		s.credits++
		if s.credit += f.n; s.credit > 16*maxWindow {
			return fmt.Errorf("%w: %d bytes of credit", errFrame, s.credit)
		}
		if s.credits > freeCredits+s.out/creditEvery {
			return fmt.Errorf("%w: credit in drops", ErrFlood)
		}
		s.room()
	default:
		return h.answered(s, f)
	}
	return nil
}

// open is a client's OPEN.
func (h *Hop) open(f frame) error {
	if !h.server || f.id != h.last+1 || f.id == 0 || f.n > maxWindow {
		return fmt.Errorf("%w: OPEN of stream %d with %d", errFrame, f.id, f.n)
	}
	h.last = f.id
	if h.full || len(h.streams) >= maxServerStreams {
		h.say(frame{kindElsewhere, 0, f.id})
		return nil
	}
	if h.asked >= maxAsked {
		h.say(frame{kindRefused, 0, f.id})
		return nil
	}
	s := h.stream(f.id)
	s.credit += f.n
	s.state = asked
	h.asked++
	h.owner.Asked(s)
	return nil
}

// answered is a server's word on an OPEN.
func (h *Hop) answered(s *Stream, f frame) error {
	if h.server || s.state != asking || f.n > maxWindow {
		return fmt.Errorf("%w: an answer that nobody waits for", errFrame)
	}
	switch f.kind {
	case kindOpened:
		s.state = open
		s.credit += f.n
		s.answer(s, nil)
	case kindRefused:
		h.forget(s)
		s.answer(nil, aio.ErrRefused)
	default:
		h.full = true
		h.forget(s)
		s.answer(nil, ErrElsewhere)
	}
	return nil
}

// past is a frame of a stream that is over here: the peer had not heard yet. A
// peer that never hears is a nuisance.
func (h *Hop) past(f frame) error {
	if f.id > h.last {
		return fmt.Errorf("%w: kind %d of stream %d, which is to come", errFrame, f.kind, f.id)
	}
	if f.kind == kindData { // which costs what all bytes cost
		h.left, h.into = f.n, nil
		return nil
	}
	h.stray++
	if h.stray > strays+16*uint64(h.last)+h.wrote/creditEvery {
		return fmt.Errorf("%w: frames of streams that are over", ErrFlood)
	}
	return nil
}
