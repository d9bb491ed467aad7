package load

import (
	"encoding/binary"
	"errors"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// The header lists of an HTTP/2 server.
const (
	kindAnswer = iota
	kindCall
	kindTrailers
)

// http2server is a connection that answers requests without a body with
// defaultBody bytes, and sends back the body of others, frame by frame: with the
// fields of gRPC, that is an echo of every kind of call.
type http2server struct {
	preface int
	frames  frames
	blocks  *blocks
	streams map[uint32]*h2stream
	send    int // window of the connection
	initial int // of a stream
	eaten   int
	part    uint32 // the stream of a HEADERS that goes on
	end     bool   // which has END_STREAM
}

type h2stream struct {
	send, eaten int
	called      bool   // the response began
	held        []byte // what has no window yet
	over        bool   // the client has said all
}

func newHTTP2Server() *http2server {
	return &http2server{blocks: newBlocks(), streams: map[uint32]*h2stream{}, send: 65535, initial: 65535}
}

// lists of fields, by kind.
var lists = [...][]hpack.HeaderField{ //nolint:gochecknoglobals // a table
	kindAnswer:   {{Name: ":status", Value: "200"}, {Name: "content-type", Value: "text/plain"}, {Name: "server", Value: "tunmesh-bench"}, {Name: "content-length", Value: "128"}},
	kindCall:     {{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"}},
	kindTrailers: {{Name: "grpc-status", Value: "0"}, {Name: "grpc-message", Value: ""}},
}

func (h *http2server) read(in []byte, c *served) error {
	if n := min(len(http2.ClientPreface)-h.preface, len(in)); n > 0 {
		if string(in[:n]) != http2.ClientPreface[h.preface:h.preface+n] {
			return errors.New("no HTTP/2 with prior knowledge")
		}
		if h.preface == 0 {
			c.out = appendSettings(c.out)
		}
		h.preface += n
		in = in[n:]
	}
	for len(in) > 0 {
		var f []byte
		if f, in = h.frames.next(in); f == nil {
			return nil
		}
		if err := h.frame(f, c); err != nil {
			return err
		}
	}
	return nil
}

func (h *http2server) frame(f []byte, c *served) error {
	kind, flags := http2.FrameType(f[3]), http2.Flags(f[4])
	id := binary.BigEndian.Uint32(f[5:]) & (1<<31 - 1)
	p := f[frameHeader:]
	switch kind {
	case http2.FrameHeaders, http2.FrameContinuation:
		if kind == http2.FrameHeaders {
			h.part, h.end = id, flags.Has(http2.FlagHeadersEndStream)
		}
		if flags.Has(http2.FlagHeadersEndHeaders) {
			h.head(h.part, h.end, c)
		}
	case http2.FrameData:
		h.data(id, flags.Has(http2.FlagDataEndStream), flags.Has(http2.FlagDataPadded), p, c)
	case http2.FrameSettings:
		if !flags.Has(http2.FlagSettingsAck) {
			h.settings(p)
			c.out = appendFrame(c.out, http2.FrameSettings, http2.FlagSettingsAck, 0, nil)
		}
	case http2.FramePing:
		if !flags.Has(http2.FlagPingAck) {
			c.out = appendFrame(c.out, http2.FramePing, http2.FlagPingAck, 0, p)
		}
	case http2.FrameRSTStream:
		delete(h.streams, id)
	case http2.FrameWindowUpdate:
		h.update(id, int(binary.BigEndian.Uint32(p)&(1<<31-1)), c)
	}
	return nil // GOAWAY: the client closes when it likes
}

func (h *http2server) settings(p []byte) {
	for ; len(p) >= 6; p = p[6:] {
		v := binary.BigEndian.Uint32(p[2:])
		switch http2.SettingID(binary.BigEndian.Uint16(p)) {
		case http2.SettingHeaderTableSize:
			h.blocks.limit(v)
		case http2.SettingInitialWindowSize:
			for _, s := range h.streams {
				s.send += int(v) - h.initial
			}
			h.initial = int(v)
		}
	}
}

// head is the end of a header list: a request's, or trailers, which end it.
func (h *http2server) head(id uint32, end bool, c *served) {
	s := h.streams[id]
	if s == nil {
		s = &h2stream{send: h.initial}
		h.streams[id] = s
		if end {
			c.out = appendFrame(c.out, http2.FrameHeaders, http2.FlagHeadersEndHeaders, id, h.blocks.of(kindAnswer, lists[kindAnswer]))
			s.held, s.over = append(s.held, filler[:defaultBody]...), true
			h.push(id, s, c)
			return
		}
	}
	if end {
		s.over = true
		h.push(id, s, c)
	}
}

func (h *http2server) data(id uint32, end, padded bool, p []byte, c *served) {
	if h.eaten += len(p); h.eaten >= giveBack {
		c.out = appendWindow(c.out, 0, h.eaten)
		h.eaten = 0
	}
	s := h.streams[id]
	if s == nil {
		return
	}
	if s.eaten += len(p); s.eaten >= giveBack && !end {
		c.out = appendWindow(c.out, id, s.eaten)
		s.eaten = 0
	}
	if padded && len(p) > 0 && int(p[0]) < len(p) {
		p = p[1 : len(p)-int(p[0])]
	}
	if !s.called {
		s.called = true
		c.out = appendFrame(c.out, http2.FrameHeaders, http2.FlagHeadersEndHeaders, id, h.blocks.of(kindCall, lists[kindCall]))
	}
	s.held = append(s.held, p...)
	s.over = s.over || end
	h.push(id, s, c)
}

// push sends what has a window.
func (h *http2server) push(id uint32, s *h2stream, c *served) {
	for len(s.held) > 0 {
		n := min(len(s.held), maxFrame, s.send, h.send)
		if n <= 0 {
			return
		}
		flags := http2.Flags(0)
		if s.over && !s.called && n == len(s.held) {
			flags = http2.FlagDataEndStream
		}
		c.out = appendFrame(c.out, http2.FrameData, flags, id, s.held[:n])
		s.send, h.send = s.send-n, h.send-n
		s.held = s.held[:copy(s.held, s.held[n:])]
	}
	if !s.over {
		return
	}
	if s.called {
		c.out = appendFrame(c.out, http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream, id, h.blocks.of(kindTrailers, lists[kindTrailers]))
	}
	delete(h.streams, id)
}

func (h *http2server) update(id uint32, n int, c *served) {
	if id != 0 {
		if s := h.streams[id]; s != nil {
			s.send += n
			h.push(id, s, c)
		}
		return
	}
	h.send += n
	for id, s := range h.streams {
		if len(s.held) > 0 {
			h.push(id, s, c)
		}
	}
}
