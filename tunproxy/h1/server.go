package h1

import (
	"bytes"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// serverState is what a server's connection does with the bytes that come.
//
//	head ──no body──▶ hold ──response──▶ head …
//	 │ └──body──▶ body ─┘└──Upgrade, CONNECT──▶ raw
//	 └──refused──▶ linger ◀──early end──
type serverState uint8

const (
	serverHead   serverState = iota // a request head, or nothing yet
	serverBody                      // a request's body
	serverHold                      // request over, or an Upgrade undecided: only a response moves on
	serverRaw                       // bytes of another protocol
	serverLinger                    // drops what comes so that the client can read why
	serverClosed                    // takes no more
)

// Server serves requests on one connection, one after the other.
type Server struct {
	wire
	accept func(message.Stream)

	state      serverState
	cur        *stream
	emptyLines int
	partial    bool // some of a head has come
	lingerLeft int
	draining   bool

	// Of the current request.
	version10 bool
	isHead    bool
	isConnect bool
	isUpgrade bool
	expect    bool // wants 100 before it sends its body, and has none yet
	closing   bool // the connection ends after the response
	keepAlive bool // an HTTP/1.0 client wants to be told that it does not
}

// NewServer serves HTTP/1 on conn, which it takes. accept is called with the
// stream of each request before any event of it, and names its receiver.
func NewServer(conn aio.Conn, cfg Config, accept func(message.Stream)) *Server {
	s := &Server{accept: accept}
	cfg = cfg.withDefaults(defaultServerIdle)
	s.since = conn.Loop().Now()
	s.start(conn, cfg, s)
	return s
}

// Idle reports that no request is under way.
func (s *Server) Idle() bool { return s.cur == nil && s.state == serverHead && !s.partial }

// Drain ends the connection once no request is under way: at once when idle, or
// after the response to the current one, which says so.
func (s *Server) Drain() {
	s.draining = true
	s.closing = true
	if s.Idle() && len(s.in) == 0 {
		s.hang()
	}
}

// Close ends the connection at once: in order when idle, and with a reset when a
// request is under way, which is aborted.
func (s *Server) Close() {
	if s.Idle() {
		s.fail(nil)
		return
	}
	s.fail(aio.ErrClosed)
}

func (s *Server) want() int {
	switch s.state {
	case serverHead:
		if s.pending() > maxPipelinedOut {
			return 0 // a client that does not read gets no further responses made
		}
		return scratchSize
	case serverBody, serverRaw:
		return s.cur.window()
	case serverLinger:
		return s.lingerLeft
	}
	return 0
}

func (s *Server) parse(b []byte) (int, bool) {
	switch s.state {
	case serverHead:
		return s.head(b)
	case serverBody:
		return s.body(b)
	case serverRaw:
		n := min(len(b), s.cur.window())
		s.cur.deliver(b[:n], false)
		return n, false
	}
	s.lingerLeft -= min(len(b), s.lingerLeft)
	if s.lingerLeft == 0 {
		s.fail(nil)
	}
	return len(b), false
}

// head takes a request head off b, once it is whole.
func (s *Server) head(b []byte) (int, bool) {
	n := 0
	for len(b)-n >= 2 && b[n] == '\r' && b[n+1] == '\n' {
		n += 2
		if s.emptyLines++; s.emptyLines > maxEmptyLines {
			return s.refuse(errEmptyLines, b)
		}
	}
	rest := b[n:]
	if len(rest) > 0 && class[rest[0]]&isToken == 0 && rest[0] != '\r' {
		return s.refuse(lineError(rest[0], errMethod), b)
	}
	text, err := s.headAt(rest)
	if err != nil {
		if err == errHeadSize && bytes.IndexByte(rest[:s.cfg.MaxHead/2], '\n') < 0 {
			err = errLineSize // it is the target that is long
		}
		return s.refuse(err, b)
	}
	if text == "" {
		if !s.partial && len(rest) > 0 {
			s.partial = true
			s.since = s.loop.Now()
		}
		return n, true
	}
	h, f := &s.cfg.Buffers.head, &s.cfg.Buffers.framing
	if err := parseRequest(text, s.cfg.MaxFields, s.cfg.Scheme, h, f); err != nil {
		return s.refuse(err, b)
	}
	s.begin(h, f)
	return n + len(text), false
}

// begin starts the exchange of a request.
func (s *Server) begin(h *message.Head, f *framing) {
	st := newStream(&s.wire, s)
	s.cur = st
	s.partial, s.emptyLines = false, 0
	s.since = s.loop.Now()
	s.version10 = h.Version == message.HTTP10
	s.isHead, s.isConnect, s.isUpgrade = h.Method == "HEAD", h.Method == "CONNECT", h.Upgrade
	s.keepAlive = s.version10 && f.keepAlive
	s.closing = s.draining || f.close || s.version10 && !f.keepAlive
	end := false
	switch {
	case f.chunked:
		st.recv = body{mode: chunkedBody}
		s.state = serverBody
	case f.length > 0:
		st.recv = body{mode: lengthBody, left: f.length}
		s.state = serverBody
	default:
		end = !s.isUpgrade && !s.isConnect
		s.state = serverHold
	}
	s.expect = f.expect && s.state == serverBody
	st.recvEnd = end
	s.accept(st)
	if !st.over {
		st.rcv.Head(st, h, end)
	}
}

func (s *Server) body(b []byte) (int, bool) {
	st := s.cur
	n, more, err := st.receive(b)
	if err != nil {
		s.badBody(err, b)
		return len(b), false
	}
	if st.recvEnd && s.cur == st {
		s.requestEnded()
	}
	return n, more
}

func (s *Server) requestEnded() {
	if s.state == serverBody {
		s.state = serverHold
	}
	s.turnOver()
}

// badBody: what was delivered so far is not a message.
func (s *Server) badBody(e *Error, b []byte) {
	st := s.cur
	if st.headSent {
		s.refused(e)
		s.fail(e)
		return
	}
	s.cur = nil
	s.refuse(e, b)
	st.aborted(message.ProtocolError, e)
}

// refuse answers a message that was not understood, and closes. It uses all of b.
func (s *Server) refuse(e *Error, b []byte) (int, bool) {
	s.refused(e)
	h := message.Head{
		Status:  e.Status,
		Version: message.HTTP2, // asks for the usual phrase
		Fields:  []message.Field{{Name: hop.FieldProxyError, Value: e.Reason}},
	}
	out, _ := appendResponse(s.buffer(256), &h, false, &encoding{explicit0: true, close: true})
	s.commit(out)
	s.linger()
	return len(b), false
}

func (s *Server) refused(e *Error) {
	if s.cfg.Refused != nil {
		s.cfg.Refused(e)
	}
}

// linger half-closes and drops what still comes for a while: a connection closed
// with unread bytes is reset, and the client would not see its answer (RFC 9112,
// section 9.6).
func (s *Server) linger() {
	s.state = serverLinger
	s.cur = nil
	s.lingerLeft = lingerBytes
	s.since = s.loop.Now()
	s.halfClose = true
	s.schedule()
}

// hang closes once everything is written.
func (s *Server) hang() {
	s.state = serverClosed
	s.cur = nil
	s.hangUp = true
	s.schedule()
}

// sendHead implements owner.
func (s *Server) sendHead(st *stream, h *message.Head, end bool) {
	if st != s.cur {
		return
	}
	if h.Informational() {
		s.sendInformational(h)
		return
	}
	e, ok := s.encoding(st, h, end)
	if !ok {
		s.fail(ErrUnsendable)
		return
	}
	out, ok := appendResponse(s.buffer(512), h, s.version10, &e)
	if !ok {
		s.fail(ErrUnsendable)
		return
	}
	s.commit(out)
	st.headSent, st.mode, st.left = true, e.mode, e.length
	switch {
	case e.mode == rawBody:
		s.state, s.raw = serverRaw, true
		s.schedule()
	case s.isConnect || s.isUpgrade:
		s.decline(st)
	}
	if end {
		st.endSend(nil)
	}
}

// sendInformational passes a 1xx on; HTTP/1.0 has none.
func (s *Server) sendInformational(h *message.Head) {
	if h.Status == 100 {
		s.expect = false
		s.since = s.loop.Now()
	}
	if s.version10 {
		return
	}
	out, ok := appendResponse(s.buffer(256), h, false, &encoding{})
	if !ok {
		s.fail(ErrUnsendable)
		return
	}
	s.commit(out)
}

// encoding decides how the final response's body is framed (RFC 9112, section 6.3).
func (s *Server) encoding(st *stream, h *message.Head, end bool) (e encoding, ok bool) {
	e.length = h.ContentLength
	switch {
	case h.Status == 101:
		if !s.isUpgrade {
			return e, false
		}
		e.mode, e.upgrade = rawBody, true
		return e, true
	case s.isConnect && h.Status/100 == 2:
		e.mode = rawBody
		return e, true
	case h.Status == 204:
		e.mode = noBody
	case s.isHead || h.Status == 304:
		e.mode, e.keepBody = noBody, true
	case end:
		if h.ContentLength > 0 {
			return e, false
		}
		if e.mode, e.explicit0, e.length = noBody, true, 0; inChunks(h) && !s.version10 {
			e.mode, e.explicit0 = chunkedBody, false
		}
	case h.ContentLength >= 0:
		e.mode = lengthBody
	case s.version10:
		e.mode = closeBody
		s.closing = true
	default:
		e.mode = chunkedBody
	}
	e.upgrade = h.Status == 426 // says what to upgrade to (RFC 9110, section 15.5.22)
	// A client that was not told to go on may send its body or not: what comes
	// next can't be known. Nor can it after a CONNECT that was declined.
	s.closing = s.closing || s.expect && !st.recvEnd || s.isConnect
	e.close = s.closing
	e.keepAlive = s.keepAlive && !e.close
	return e, true
}

// decline ends the request of an Upgrade or CONNECT that stays HTTP.
func (s *Server) decline(st *stream) {
	st.pinned = true
	s.loop.Defer(func() {
		if s.cur == st && !st.over && !st.recvEnd {
			st.deliver(nil, true)
			s.turnOver()
		}
	})
}

// sendEnded implements owner.
func (s *Server) sendEnded(st *stream) {
	if st != s.cur {
		return
	}
	if st.mode == rawBody && !st.recvEnd {
		s.halfClose = true
	}
	if s.expect && !st.recvEnd {
		s.stopUpload(st)
	}
	s.turnOver()
	s.schedule()
}

// stopUpload: the response went out without asking for the body.
func (s *Server) stopUpload(st *stream) {
	s.linger()
	st.pinned = true
	s.loop.Defer(func() { st.aborted(message.NoError, nil) })
}

// turnOver goes on to the next request, or closes, when both directions ended.
func (s *Server) turnOver() {
	st := s.cur
	if st == nil || !st.recvEnd || !st.sendEnd {
		return
	}
	switch {
	case st.mode == rawBody:
		s.hang()
	case s.closing:
		s.linger()
	default:
		s.cur = nil
		s.state = serverHead
		s.since = s.loop.Now()
		s.schedule()
	}
}

// abort implements owner: with a whole response on its way only the request's rest
// is dropped; otherwise the client must see that something is missing.
func (s *Server) abort(st *stream, _ message.Code) {
	switch {
	case st != s.cur:
	case st.sendEnd && st.mode != rawBody:
		s.linger()
	default:
		s.cur = nil
		s.fail(aio.ErrReset)
	}
}

func (s *Server) ended(rest int) {
	switch s.state {
	case serverHead:
		if rest > 0 {
			s.refuse(errCutHead, nil)
			return
		}
		s.hang()
	case serverBody:
		if s.cur.sendEnd {
			st := s.cur
			s.hang()
			st.aborted(message.NoError, ErrTruncated)
			return
		}
		s.fail(ErrTruncated)
	case serverRaw:
		if st := s.cur; !st.recvEnd {
			st.deliver(nil, true)
			s.turnOver()
		}
	case serverLinger:
		s.hang()
	}
}

func (s *Server) wrote() {}

func (s *Server) due() time.Duration {
	switch s.state {
	case serverHead:
		if s.partial {
			return s.since + s.cfg.HeadTimeout
		}
		return s.since + s.cfg.IdleTimeout
	case serverBody:
		if s.cur.window() == 0 {
			return 0 // the receiver is slow, not the client
		}
		if s.expect {
			return s.since + s.cfg.BodyTimeout // nobody has asked for the body yet
		}
		return s.cur.bodyDue()
	case serverLinger:
		return s.since + lingerTimeout
	}
	return 0
}

func (s *Server) expired() {
	switch s.state {
	case serverHead:
		if s.partial {
			s.dropIn()
			s.scanned = 0
			s.cfg.Counters.SlowHeads.Add(1)
			s.refuse(errSlowHead, nil)
			return
		}
		s.hang()
	case serverBody:
		s.cfg.Counters.SlowBodies.Add(1)
		s.badBody(errSlowBody, nil)
	case serverLinger:
		s.fail(nil)
	}
}

func (s *Server) broken(err error) {
	st := s.cur
	s.cur = nil
	s.state = serverClosed
	if st != nil {
		st.aborted(codeOf(err, message.Cancel), err)
	}
}

// codeOf sorts the reasons why a connection broke.
func codeOf(err error, otherwise message.Code) message.Code {
	switch err := err.(type) { //nolint:errorlint // ours, and never wrapped
	case *Error:
		return message.ProtocolError
	case error:
		if err == ErrUnsendable { //nolint:errorlint // the same
			return message.InternalError
		}
	}
	return otherwise
}
