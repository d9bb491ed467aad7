package h1

import (
	"errors"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// clientState is what a client's connection expects.
//
//	idle ──OpenStream──▶ head ──▶ body ──▶ rest ──request over──▶ idle …
//	                      └──101, 2xx to CONNECT──▶ raw
type clientState uint8

const (
	clientIdle clientState = iota // nothing: any byte is one too many
	clientHead                    // a response head
	clientBody                    // a response body
	clientRest                    // nothing, but the request is still being sent
	clientRaw                     // bytes of another protocol
	clientClosed
)

// Client sends requests on one connection, one exchange at a time.
type Client struct {
	wire
	state clientState
	cur   *stream

	// Of the current exchange.
	isHead        bool
	isConnect     bool
	isUpgrade     bool
	informational int
	answered      int  // exchanges on this connection that are over
	reusable      bool // by what the request and the response say
	turnedIdle    bool // OnIdle is to be called
}

// NewClient speaks HTTP/1 on conn, which it takes.
func NewClient(conn aio.Conn, cfg Config) *Client {
	c := &Client{}
	cfg = cfg.withDefaults(defaultClientIdle)
	c.since = conn.Loop().Now()
	c.start(conn, cfg, c)
	return c
}

// Idle reports that OpenStream would succeed.
func (c *Client) Idle() bool {
	return c.state == clientIdle && !c.over && !c.eof && c.pending() == 0
}

// OpenStream begins an exchange. It returns ErrBusy while another is under way
// and ErrGone when the connection takes no more.
func (c *Client) OpenStream() (message.Stream, error) {
	switch {
	case c.over || c.eof || c.state == clientClosed:
		return nil, ErrGone
	case !c.Idle():
		return nil, ErrBusy
	}
	c.cur = newStream(&c.wire, c)
	c.state = clientHead
	c.isHead, c.isConnect, c.isUpgrade = false, false, false
	c.informational = 0
	c.reusable = true
	c.turnedIdle = false
	return c.cur, nil
}

// Close ends the connection: at once when idle, and with a reset when an exchange
// is under way.
func (c *Client) Close() {
	if c.cur == nil {
		c.fail(nil)
		return
	}
	c.fail(aio.ErrClosed)
}

func (c *Client) want() int {
	switch c.state {
	case clientIdle, clientHead, clientRest:
		return scratchSize
	case clientBody, clientRaw:
		return c.cur.window()
	}
	return 0
}

func (c *Client) parse(b []byte) (int, bool) {
	switch c.state {
	case clientHead:
		if !c.cur.headSent || c.sent <= c.cur.start {
			break // a response to nothing
		}
		return c.head(b)
	case clientBody:
		return c.body(b)
	case clientRaw:
		n := min(len(b), c.cur.window())
		c.cur.deliver(b[:n], false)
		return n, false
	case clientRest:
		// The response is over and more comes: not a server to go on with.
		c.reusable = false
		return len(b), false
	}
	c.refuse(errUnexpected)
	return len(b), false
}

var errUnexpected = &Error{502, "response bytes without a request"}

// head takes a response head off b, once it is whole.
func (c *Client) head(b []byte) (int, bool) {
	text, err := c.headAt(b)
	if err != nil {
		c.refuse(badResponse(err))
		return len(b), false
	}
	if text == "" {
		return 0, true
	}
	h, f := &c.cfg.Buffers.head, &c.cfg.Buffers.framing
	if err := parseResponse(text, c.cfg.MaxFields, h, f); err != nil {
		c.refuse(err)
		return len(b), false
	}
	switch {
	case h.Informational():
		if c.informational++; c.informational > maxInformational {
			c.refuse(errInformational)
			return len(b), false
		}
		h.ContentLength = 0
		c.cur.rcv.Head(c.cur, h, false)
	case h.Status == 101 && !c.isUpgrade:
		c.refuse(errSwitch)
		return len(b), false
	default:
		c.respond(h, f)
	}
	return len(text), false
}

// respond delivers the final head (RFC 9112, section 6.3).
func (c *Client) respond(h *message.Head, f *framing) {
	st := c.cur
	mode := closeBody
	switch {
	case h.Status == 101 || c.isConnect && h.Status/100 == 2:
		mode = rawBody
	case c.isHead || h.Status == 204 || h.Status == 304 || f.length == 0:
		mode = noBody
	case f.chunked:
		mode = chunkedBody
	case f.length > 0:
		mode = lengthBody
	}
	st.recv = body{mode: mode, left: f.length}
	c.reusable = c.reusable && !f.close && (h.Version == message.HTTP11 || f.keepAlive) &&
		mode != closeBody && mode != rawBody && !c.isConnect
	c.state = clientBody
	switch mode {
	case rawBody:
		h.Upgrade = h.Status == 101
		h.ContentLength = -1
		st.mode = rawBody
		c.state, c.raw = clientRaw, true
	case noBody:
		if h.Status == 204 {
			h.ContentLength = 0
		}
		st.recvEnd = true
		c.state = clientRest
	}
	if mode != rawBody && (c.isUpgrade || c.isConnect) {
		st.sendEnd = true // nothing may follow a request whose upgrade was declined
	}
	st.rcv.Head(st, h, mode == noBody)
	if st.undecided && !st.over {
		st.decided(mode == rawBody)
	}
	if c.cur == st && st.recvEnd {
		c.responseEnded()
	}
}

func (c *Client) body(b []byte) (int, bool) {
	st := c.cur
	n, more, err := st.receive(b)
	if err != nil {
		c.refuse(badResponse(err))
		return len(b), false
	}
	if st.recvEnd && c.cur == st {
		c.state = clientRest
		c.responseEnded()
	}
	return n, more
}

// responseEnded: the request may go on, unless the server said that it will close.
func (c *Client) responseEnded() {
	st := c.cur
	if st.sendEnd {
		c.release()
		return
	}
	if !c.reusable {
		c.cur = nil
		c.shut()
		st.aborted(message.NoError, nil)
	}
}

// release ends an exchange whose both directions are over.
func (c *Client) release() {
	c.cur = nil
	c.answered++
	if !c.reusable || c.eof {
		c.shut()
		return
	}
	c.state = clientIdle
	c.since = c.loop.Now()
	c.turnedIdle = true
	c.schedule()
}

// shut closes in order.
func (c *Client) shut() {
	c.state = clientClosed
	c.fail(nil)
}

// refuse gives up a server that does not speak HTTP/1.
func (c *Client) refuse(e *Error) {
	if c.cfg.Refused != nil {
		c.cfg.Refused(e)
	}
	c.fail(e)
}

// sendHead implements owner.
func (c *Client) sendHead(st *stream, h *message.Head, end bool) {
	if st != c.cur {
		return
	}
	e, ok := c.encoding(h, end)
	if ok {
		var out []byte
		if out, ok = appendRequest(c.buffer(512), h, &e); ok {
			c.commit(out)
		}
	}
	if !ok {
		c.unsendable(st)
		return
	}
	st.headSent, st.mode, st.left = true, e.mode, e.length
	st.undecided = c.isUpgrade || c.isConnect
	switch {
	case end && st.undecided:
		st.earlyEnd = true
	case end:
		st.endSend(nil)
	}
}

// encoding decides how the request's body is framed (RFC 9112, section 6.3).
func (c *Client) encoding(h *message.Head, end bool) (e encoding, ok bool) {
	c.isHead, c.isConnect, c.isUpgrade = h.Method == "HEAD", h.Method == "CONNECT", h.Upgrade
	e.length = h.ContentLength
	switch {
	case h.Protocol != "":
		return e, false // extended CONNECT exists in HTTP/2 only
	case h.Upgrade || c.isConnect:
		e.mode, e.upgrade = noBody, h.Upgrade
		c.reusable = false // whatever the answer, this connection was for that
	case end:
		if h.ContentLength > 0 {
			return e, false
		}
		if inChunks(h) {
			e.mode = chunkedBody
			return e, true
		}
		// A method that is about content says that there is none (RFC 9110,
		// section 8.6); a sender of HTTP/1 has said it, or not, by itself.
		_, said := h.Get("Content-Length")
		e.mode, e.length = noBody, 0
		e.explicit0 = said || h.Version == message.HTTP2 && hasContent(h.Method)
	case h.ContentLength >= 0:
		e.mode = lengthBody
	default:
		e.mode = chunkedBody
		if h.Version == message.HTTP10 {
			return e, false // has no way to say where such a body ends
		}
	}
	if h.Version == message.HTTP10 {
		e.keepAlive = asksKeepAlive(h)
		c.reusable = c.reusable && e.keepAlive
	}
	return e, true
}

// inChunks: the sender, who spoke HTTP/1.1, said so, and there happened to be none.
func inChunks(h *message.Head) bool {
	if h.Version != message.HTTP11 || h.ContentLength >= 0 {
		return false
	}
	_, said := h.Get("Transfer-Encoding")
	return said
}

func hasContent(method string) bool {
	return method == "POST" || method == "PUT" || method == "PATCH"
}

func asksKeepAlive(h *message.Head) bool {
	for i := range h.Fields {
		if classify(h.Fields[i].Name) != fieldConnection {
			continue
		}
		for rest := h.Fields[i].Value; rest != ""; {
			var t string
			t, rest = message.NextElement(rest)
			if fold(t, "keep-alive") {
				return true
			}
		}
	}
	return false
}

// unsendable ends a stream of which nothing can be written; the connection is as
// good as before.
func (c *Client) unsendable(st *stream) {
	c.cur = nil
	c.state = clientIdle
	c.since = c.loop.Now()
	c.turnedIdle = true
	st.pinned = true
	c.loop.Defer(func() { st.aborted(message.InternalError, ErrUnsendable) })
	c.schedule()
}

// sendEnded implements owner.
func (c *Client) sendEnded(st *stream) {
	if st != c.cur {
		return
	}
	switch {
	case st.mode == rawBody && st.recvEnd:
		c.cur = nil
		c.state = clientClosed
		c.hangUp = true
	case st.mode == rawBody:
		c.halfClose = true
	case st.recvEnd:
		c.release()
	}
	c.schedule()
}

// abort implements owner. A request that has not left is forgotten; otherwise the
// connection can't be used for another.
func (c *Client) abort(st *stream, _ message.Code) {
	if st != c.cur {
		return
	}
	c.cur = nil
	if c.state == clientHead && c.sent <= st.start && !c.over && !c.eof {
		c.queued = st.start
		c.dropOut()
		c.state = clientIdle
		c.since = c.loop.Now()
		c.turnedIdle = true
		c.schedule()
		return
	}
	c.state = clientClosed
	c.fail(aio.ErrReset)
}

func (c *Client) ended(rest int) {
	st := c.cur
	switch c.state {
	case clientIdle:
		c.shut()
	case clientHead:
		c.fail(c.unanswered(ErrTruncated))
	case clientBody:
		if st.recv.mode != closeBody || rest > 0 {
			c.fail(ErrTruncated)
			return
		}
		c.state = clientRest
		st.deliver(nil, true)
		if c.cur == st {
			c.responseEnded()
		}
	case clientRest:
		c.reusable = false
		c.responseEnded()
	case clientRaw:
		if st.recvEnd {
			return
		}
		st.deliver(nil, true)
		if c.cur == st && st.sendEnd {
			c.cur = nil
			c.state = clientClosed
			c.hangUp = true
			c.schedule()
		}
	}
}

func (c *Client) wrote() {
	if c.turnedIdle && c.Idle() {
		c.turnedIdle = false
		if c.cfg.OnIdle != nil {
			c.cfg.OnIdle()
		}
	}
}

func (c *Client) due() time.Duration {
	if c.state == clientIdle {
		return c.since + c.cfg.IdleTimeout
	}
	return 0
}

func (c *Client) expired() { c.shut() }

// unanswered is err, or ErrUnanswered when it ends a connection that has served
// before, and nothing of a response has come.
func (c *Client) unanswered(err error) error {
	if c.state == clientHead && c.answered > 0 && c.informational == 0 && len(c.in) == c.off {
		return ErrUnanswered
	}
	return err
}

func (c *Client) broken(err error) {
	st := c.cur
	if errors.Is(err, aio.ErrReset) {
		err = c.unanswered(err)
	}
	c.cur = nil
	c.state = clientClosed
	if st != nil {
		if err == nil {
			err = ErrTruncated
		}
		st.aborted(codeOf(err, message.InternalError), err)
	}
}
