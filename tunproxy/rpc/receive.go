package rpc

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// prefixLen is the length of gRPC's message prefix: a flag byte, four of length.
const prefixLen = 5

// minPart is the room that a message in parts gets at once, if it is that long.
const minPart = 64 << 10

// fragment collects a header block.
func (r *reader) fragment(h frame.Header, p []byte) error {
	if len(r.block)+len(p) > 2*maxHeaderList {
		return frame.Errorf(message.EnhanceYourCalm, "a header block of more than %d bytes", 2*maxHeaderList)
	}
	r.block = append(r.block, p...)
	if !h.Flags.Has(frame.EndHeaders) {
		return nil
	}
	var m meta
	err := r.dec.Decode(r.block, maxHeaderList, m.field)
	stream := r.blockOf
	r.block, r.blockOf = r.block[:0], 0
	if err != nil {
		return err
	}
	r.conn.head(stream, &m, r.blockEnd)
	return nil
}

// meta is what a response's head or trailers say to a gRPC client.
type meta struct {
	status      int
	grpc        int // -1: absent
	hasGRPC     bool
	message     string
	contentType string
}

func (m *meta) field(name, value string, _ uint8, _ bool) {
	switch name {
	case ":status":
		m.status, _ = strconv.Atoi(value)
	case "grpc-status":
		m.hasGRPC = true
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			n = uint64(Unknown)
		}
		m.grpc = int(n)
	case "grpc-message":
		m.message = percentDecode(value)
	case "content-type":
		m.contentType = value
	}
}

// percentDecode undoes gRPC's encoding of status messages; what is not
// well-formed stays as it is.
func percentDecode(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b = append(b, byte(v))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

// head takes a response's head, or its trailers.
func (c *Conn) head(id uint32, m *meta, end bool) {
	s := c.stream(id)
	if s == nil {
		return
	}
	if m.status >= 100 && m.status < 200 && !end {
		return
	}
	if !s.headed && m.status != 0 {
		s.headed = true
		switch {
		case m.status != 200 && !m.hasGRPC:
			c.abort(s, &Status{Code: ofHTTP(m.status), Message: fmt.Sprintf("HTTP status %d, not a gRPC response", m.status)})
			return
		case !strings.HasPrefix(m.contentType, "application/grpc"):
			c.abort(s, &Status{Code: Unknown, Message: fmt.Sprintf("content type %q, not a gRPC response", m.contentType)})
			return
		}
	}
	if !end {
		return
	}
	switch {
	case !m.hasGRPC:
		c.finish(id, &Status{Code: Unknown, Message: "the response ended without a status"})
	case m.grpc != 0:
		c.finish(id, &Status{Code: Code(m.grpc), Message: m.message})
	case len(s.in) > 0:
		c.finish(id, &Status{Code: Internal, Message: "the response ended inside a message"})
	default:
		c.finish(id, nil)
	}
}

// data takes a DATA frame apart into messages.
func (r *reader) data(h frame.Header, p []byte) error {
	c := r.conn
	r.consumed += h.Length // padding counts
	if r.consumed >= window/2 {
		n := uint32(r.consumed)
		r.consumed = 0
		if err := c.control(func(dst []byte) []byte { return frame.AppendWindowUpdate(dst, 0, n) }); err != nil {
			return err
		}
	}
	p, err := frame.ParseData(h, p)
	if err != nil {
		return err
	}
	s := c.stream(h.Stream)
	if s == nil {
		return nil // ended by us a moment ago
	}
	if !s.headed {
		c.abort(s, &Status{Code: Internal, Message: "data before the response's head"})
		return nil
	}
	if st := s.messages(p); st != nil {
		c.abort(s, st)
		return nil
	}
	if h.Flags.Has(frame.EndStream) {
		c.finish(h.Stream, &Status{Code: Unknown, Message: "the response ended without a status"})
		return nil
	}
	s.consumed += h.Length
	if s.consumed >= window/2 {
		n := uint32(s.consumed)
		s.consumed = 0
		return c.control(func(dst []byte) []byte { return frame.AppendWindowUpdate(dst, h.Stream, n) })
	}
	return nil
}

// messages delivers what is whole and keeps the rest. It runs on the reader.
func (s *Stream) messages(p []byte) *Status {
	for len(p) > 0 {
		if len(s.in) == 0 { // the usual case: whole messages, delivered in place
			if n, st := s.length(p); st != nil {
				return st
			} else if n >= 0 && len(p) >= n {
				s.handler.Message(s, p[prefixLen:n])
				p = p[n:]
				continue
			}
			s.in = append(s.in, p...)
			return s.held(len(p))
		}
		want, st := s.length(s.in)
		if st != nil {
			return st
		}
		if want < 0 {
			want = prefixLen
		}
		k := min(len(p), want-len(s.in))
		s.grow(k, want)
		s.in = append(s.in, p[:k]...)
		p = p[k:]
		if st := s.held(k); st != nil {
			return st
		}
		if n, st := s.length(s.in); st != nil {
			return st
		} else if n >= 0 && len(s.in) == n {
			s.handler.Message(s, s.in[prefixLen:])
			_ = s.held(-len(s.in))
			s.in = nil
		}
	}
	return nil
}

// grow makes room for n more bytes of a message of want: in few large steps, as
// each leaves what was there before for the collector.
func (s *Stream) grow(n, want int) {
	if need := len(s.in) + n; need > cap(s.in) {
		s.in = append(make([]byte, 0, min(want, max(need, 4*cap(s.in), minPart))), s.in...)
	}
}

// length is that of the message at the front of p with its prefix, -1 while it
// is not known.
func (s *Stream) length(p []byte) (int, *Status) {
	if p[0] != 0 {
		return 0, &Status{Code: Unimplemented, Message: "compressed messages are not supported"}
	}
	if len(p) < prefixLen {
		return -1, nil
	}
	n := binary.BigEndian.Uint32(p[1:])
	if int64(n) > int64(s.conn.cfg.MaxMessage) {
		return 0, &Status{Code: ResourceExhausted, Message: fmt.Sprintf("a message of %d bytes, at most %d are taken", n, s.conn.cfg.MaxMessage)}
	}
	return prefixLen + int(n), nil
}

// held counts bytes of messages received in part, as long as s is open.
func (s *Stream) held(n int) *Status {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[s.id] != s {
		return nil
	}
	s.partial += n
	c.partial += n
	if c.partial > 2*c.cfg.MaxMessage {
		return &Status{Code: ResourceExhausted, Message: "too many large messages at once"}
	}
	return nil
}
