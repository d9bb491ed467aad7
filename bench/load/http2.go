package load

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// HTTP2 asks with HTTP/2 and prior knowledge, Streams requests at a time on
// each connection.
func HTTP2(to netip.AddrPort, o Options) (Result, error) {
	return ask(to, o, func() protocol { return newHTTP2(o, nil, false) })
}

// GRPC calls a unary method with a message of size bytes.
func GRPC(to netip.AddrPort, o Options, size int) (Result, error) {
	return ask(to, o, func() protocol { return newHTTP2(o, message(size), false) })
}

// Stream has Streams bidirectional calls on each connection, and on each one
// message of size bytes under way, there and back: what is counted.
func Stream(to netip.AddrPort, o Options, size int) (Result, error) {
	return ask(to, o, func() protocol { return newHTTP2(o, message(size), true) })
}

// message is a gRPC message: not compressed, its length, its bytes.
func message(size int) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(size)), bytes.Repeat([]byte("m"), size)...)
}

// http2conn is a client's connection.
type http2conn struct {
	frames  frames
	blocks  *blocks
	dec     *hpack.Decoder
	request []hpack.HeaderField
	message []byte // a gRPC message; nil: a GET
	streams bool   // messages go to and fro on streams that stay
	next    uint32
	slots   map[uint32]*h2slot
	all     []h2slot
	stream  []uint32 // of each slot, with streams
	eaten   int

	// What the header list that is being decoded says.
	status, grpc string
	block        []byte // of a HEADERS that goes on in CONTINUATION
}

type h2slot struct {
	n     int
	ok    bool
	got   int // bytes of the answer's message, with streams
	eaten int
}

func newHTTP2(o Options, msg []byte, streams bool) *http2conn {
	h := &http2conn{blocks: newBlocks(), message: msg, streams: streams, next: 1, slots: map[uint32]*h2slot{}, all: make([]h2slot, o.Streams), stream: make([]uint32, o.Streams)}
	h.dec = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		switch f.Name {
		case ":status":
			h.status = f.Value
		case "grpc-status":
			h.grpc = f.Value
		}
	})
	method := "GET"
	if msg != nil {
		method = "POST"
	}
	h.request = []hpack.HeaderField{
		{Name: ":method", Value: method}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: o.Path}, {Name: ":authority", Value: o.Authority},
	}
	if msg == nil {
		h.request = append(h.request, hpack.HeaderField{Name: "user-agent", Value: "tunmesh-bench"}, hpack.HeaderField{Name: "accept", Value: "*/*"})
	} else {
		h.request = append(h.request, hpack.HeaderField{Name: "content-type", Value: "application/grpc"},
			hpack.HeaderField{Name: "user-agent", Value: "grpc-tunmesh-bench"}, hpack.HeaderField{Name: "te", Value: "trailers"})
	}
	return h
}

func (h *http2conn) begin(out []byte) []byte {
	return appendSettings(append(out, http2.ClientPreface...))
}

func (h *http2conn) ask(out []byte, n int) []byte {
	if id := h.stream[n]; h.streams && id != 0 {
		return appendFrame(out, http2.FrameData, 0, id, h.message)
	}
	id := h.next
	h.next += 2
	h.all[n] = h2slot{n: n}
	h.slots[id] = &h.all[n]
	flags := http2.FlagHeadersEndHeaders
	if h.message == nil {
		flags |= http2.FlagHeadersEndStream
	}
	out = appendFrame(out, http2.FrameHeaders, flags, id, h.blocks.of(0, h.request))
	if h.message == nil {
		return out
	}
	flags = http2.FlagDataEndStream
	if h.streams {
		flags, h.stream[n] = 0, id
	}
	return appendFrame(out, http2.FrameData, flags, id, h.message)
}

func (h *http2conn) read(in []byte, out *[]byte, done func(int, bool)) error {
	for len(in) > 0 {
		var f []byte
		if f, in = h.frames.next(in); f == nil {
			return nil
		}
		if err := h.frame(f, out, done); err != nil {
			return err
		}
	}
	return nil
}

func (h *http2conn) frame(f []byte, out *[]byte, done func(int, bool)) error {
	kind, flags := http2.FrameType(f[3]), http2.Flags(f[4])
	id := binary.BigEndian.Uint32(f[5:]) & (1<<31 - 1)
	payload := f[frameHeader:]
	switch kind {
	case http2.FrameHeaders, http2.FrameContinuation:
		return h.headers(id, kind, flags, payload, done)
	case http2.FrameData:
		return h.data(id, flags, payload, out, done)
	case http2.FrameSettings:
		if !flags.Has(http2.FlagSettingsAck) {
			for p := payload; len(p) >= 6; p = p[6:] {
				if http2.SettingID(binary.BigEndian.Uint16(p)) == http2.SettingHeaderTableSize {
					h.blocks.limit(binary.BigEndian.Uint32(p[2:]))
				}
			}
			*out = appendFrame(*out, http2.FrameSettings, http2.FlagSettingsAck, 0, nil)
		}
	case http2.FramePing:
		if !flags.Has(http2.FlagPingAck) {
			*out = appendFrame(*out, http2.FramePing, http2.FlagPingAck, 0, payload)
		}
	case http2.FrameRSTStream:
		if s := h.slots[id]; s != nil {
			s.ok = false
			h.over(id, s, done)
		}
	case http2.FrameGoAway:
		return fmt.Errorf("the connection goes away: %x", payload)
	}
	return nil // the rest asks nothing of a client that sends so little
}

func (h *http2conn) headers(id uint32, kind http2.FrameType, flags http2.Flags, p []byte, done func(int, bool)) error {
	if kind == http2.FrameHeaders {
		pad := 0
		if flags.Has(http2.FlagHeadersPadded) && len(p) > 0 {
			pad, p = int(p[0]), p[1:]
		}
		if flags.Has(http2.FlagHeadersPriority) {
			p = p[min(5, len(p)):]
		}
		if pad > len(p) {
			return errors.New("padding beyond the frame")
		}
		p = p[:len(p)-pad]
		if flags.Has(http2.FlagHeadersEndStream) { // remembered until the block is whole
			h.block = append(h.block[:0], 1)
		} else {
			h.block = append(h.block[:0], 0)
		}
	}
	h.block = append(h.block, p...)
	if !flags.Has(http2.FlagHeadersEndHeaders) {
		return nil
	}
	h.status, h.grpc = "", ""
	_, err := h.dec.Write(h.block[1:])
	if err = errors.Join(err, h.dec.Close()); err != nil {
		return fmt.Errorf("header block: %w", err)
	}
	s := h.slots[id]
	if s == nil {
		return nil
	}
	if h.status != "" {
		s.ok = h.status[0] == '2'
	}
	if h.grpc != "" && h.grpc != "0" {
		s.ok = false
	}
	if h.block[0] == 1 {
		h.over(id, s, done)
	}
	return nil
}

func (h *http2conn) data(id uint32, flags http2.Flags, p []byte, out *[]byte, done func(int, bool)) error {
	if h.eaten += len(p); h.eaten >= giveBack {
		*out = appendWindow(*out, 0, h.eaten)
		h.eaten = 0
	}
	s := h.slots[id]
	if s == nil {
		return nil
	}
	if flags.Has(http2.FlagDataEndStream) {
		h.over(id, s, done)
		return nil
	}
	if s.eaten += len(p); s.eaten >= giveBack {
		*out = appendWindow(*out, id, s.eaten)
		s.eaten = 0
	}
	if h.streams {
		for s.got += len(p); s.got >= len(h.message); {
			s.got -= len(h.message)
			done(s.n, s.ok)
		}
	}
	return nil
}

// over ends a request; a stream that should have stayed has failed.
func (h *http2conn) over(id uint32, s *h2slot, done func(int, bool)) {
	delete(h.slots, id)
	if h.streams {
		h.stream[s.n] = 0
		s.ok = false
	}
	done(s.n, s.ok)
}
