package h2

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/hpack"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// recorder is a Receiver that notes what it hears.
type recorder struct {
	heads    []*message.Head
	body     bytes.Buffer
	trailers []message.Field
	ended    bool
	aborted  bool
	code     message.Code
	err      error
	drained  int
	lazy     bool // does not consume

	onHead func(s message.Stream, h *message.Head, end bool)
	onEnd  func(s message.Stream)
	onData func(s message.Stream, p []byte)
}

// heard checks that an event may come at all.
func (r *recorder) heard() {
	if r.ended || r.aborted {
		panic("an event after the end")
	}
}

func (r *recorder) Head(s message.Stream, h *message.Head, end bool) {
	r.heard()
	r.heads = append(r.heads, h.Clone())
	r.ended = r.ended || end
	if r.onHead != nil {
		r.onHead(s, h, end)
	}
	if end && r.onEnd != nil {
		r.onEnd(s)
	}
}

func (r *recorder) Data(s message.Stream, p []byte, end bool) {
	r.heard()
	r.body.Write(p)
	r.ended = r.ended || end
	if !r.lazy {
		s.Consumed(len(p))
	}
	if r.onData != nil {
		r.onData(s, p)
	}
	if end && r.onEnd != nil {
		r.onEnd(s)
	}
}

func (r *recorder) Trailers(s message.Stream, f []message.Field) {
	r.heard()
	r.trailers = append([]message.Field{}, f...)
	r.ended = true
	if r.onEnd != nil {
		r.onEnd(s)
	}
}
func (r *recorder) Drained(_ message.Stream, n int) {
	if r.aborted {
		panic("drained after the abort")
	}
	r.drained += n
}
func (r *recorder) Aborted(_ message.Stream, code message.Code, err error) {
	if r.aborted {
		panic("aborted twice")
	}
	r.aborted, r.code, r.err = true, code, err
}

func (r *recorder) status() int {
	if len(r.heads) == 0 {
		return 0
	}
	return r.heads[len(r.heads)-1].Status
}

// text puts a list of fields on one line.
func text(fields []message.Field) string {
	var parts []string
	for _, f := range fields {
		parts = append(parts, f.Name+": "+f.Value)
	}
	return strings.Join(parts, "\n")
}

func get(path string) *message.Head {
	return &message.Head{Method: "GET", Scheme: "http", Authority: "emoji:8080", Path: path, ContentLength: -1}
}

func post(path string) *message.Head {
	h := get(path)
	h.Method = "POST"
	return h
}

// world is a client and a server of ours over a pipe.
type world struct {
	testing.TB
	loop           *aiotest.Loop
	client         *Client
	server         *Server
	cc, sc         *aiotest.Conn
	serve          func(s message.Stream) *recorder // default: note only
	streams        []message.Stream                 // of the server, in order
	received       []*recorder
	clientClosed   []error
	serverClosed   []error
	drains, rooms  int
	counters       Counters // of the server
	clientCounters Counters
}

func newWorld(t testing.TB, client, server Config, pipe int) *world {
	w := &world{TB: t, loop: aiotest.NewLoop()}
	w.loop.Advance(t, time.Second)
	w.cc, w.sc = aiotest.Pipe(w.loop, pipe)
	client.OnClosed = func(err error) { w.clientClosed = append(w.clientClosed, err) }
	client.OnDrain = func() { w.drains++ }
	client.OnCapacity = func() { w.rooms++ }
	client.Counters = &w.clientCounters
	server.OnClosed = func(err error) { w.serverClosed = append(w.serverClosed, err) }
	server.Counters = &w.counters
	w.server = NewServer(w.sc, server, func(s message.Stream) {
		r := &recorder{}
		if w.serve != nil {
			r = w.serve(s)
		}
		w.streams = append(w.streams, s)
		w.received = append(w.received, r)
		if r != nil {
			s.SetReceiver(r)
		}
	})
	w.client = NewClient(w.cc, client)
	return w
}

func (w *world) run() { w.Helper(); w.loop.Run(w) }

func (w *world) open() (message.Stream, *recorder) {
	w.Helper()
	s, err := w.client.OpenStream()
	if err != nil {
		w.Fatal(err)
	}
	r := &recorder{}
	s.SetReceiver(r)
	return s, r
}

// echo answers 200 and sends the request's body back, with credit end to end.
func echo(message.Stream) *recorder {
	r := &recorder{lazy: true}
	r.onHead = func(s message.Stream, _ *message.Head, end bool) {
		s.SendHead(&message.Head{Status: 200, ContentLength: -1}, end)
	}
	return r
}

// rawPeer is one end of a pipe on which a test speaks frames.
type rawPeer struct {
	testing.TB
	loop   *aiotest.Loop
	conn   *aiotest.Conn
	enc    *hpack.Encoder
	dec    *hpack.Decoder
	b      []byte // received, not parsed
	server *Server
	client *Client
	got    []*recorder
	count  Counters
	closed []error
	lazy   bool // streams don't consume
}

// rawClient speaks frames to a server of ours.
func rawClient(t testing.TB, cfg Config, serve func(message.Stream) *recorder) *rawPeer {
	return rawClientOn(t, aiotest.NewLoop(), cfg, serve)
}

func rawClientOn(t testing.TB, loop *aiotest.Loop, cfg Config, serve func(message.Stream) *recorder) *rawPeer {
	p := newPeerOn(t, loop)
	ours, theirs := aiotest.Pipe(p.loop, 1<<20)
	p.conn = theirs
	if cfg.Counters == nil {
		cfg.Counters = &p.count
	}
	cfg.OnClosed = func(err error) { p.closed = append(p.closed, err) }
	p.server = NewServer(ours, cfg, func(s message.Stream) {
		r := &recorder{lazy: p.lazy}
		if serve != nil {
			r = serve(s)
		}
		p.got = append(p.got, r)
		s.SetReceiver(r)
	})
	p.send([]byte(frame.Preface))
	p.send(frame.AppendSettings(nil))
	p.send(frame.AppendSettingsAck(nil))
	p.frames()
	return p
}

// rawServer speaks frames to a client of ours.
func rawServer(t testing.TB, cfg Config, settings ...frame.Setting) *rawPeer {
	p := newPeer(t)
	ours, theirs := aiotest.Pipe(p.loop, 1<<20)
	p.conn = theirs
	cfg.Counters = &p.count
	cfg.OnClosed = func(err error) { p.closed = append(p.closed, err) }
	p.client = NewClient(ours, cfg)
	p.loop.Run(t)
	if b := p.conn.Take(); !bytes.HasPrefix(b, []byte(frame.Preface)) {
		t.Fatalf("the client begins with %q", b)
	}
	p.send(frame.AppendSettings(nil, settings...))
	p.send(frame.AppendSettingsAck(nil))
	p.frames()
	return p
}

func newPeer(t testing.TB) *rawPeer { return newPeerOn(t, aiotest.NewLoop()) }

func newPeerOn(t testing.TB, loop *aiotest.Loop) *rawPeer {
	p := &rawPeer{TB: t, loop: loop, enc: hpack.NewEncoder(4096)}
	p.dec = hpack.NewDecoder(hpack.NewInterner(), hpack.NewClassifier(func(string, string) uint8 { return 0 }))
	p.loop.Advance(t, time.Second)
	return p
}

func (p *rawPeer) send(b []byte) {
	p.Helper()
	p.conn.Put(b)
	p.loop.Run(p)
}

// block encodes "name", "value" pairs.
func (p *rawPeer) block(kv ...string) []byte {
	b := p.enc.Begin(nil)
	for i := 0; i < len(kv); i += 2 {
		b = p.enc.Append(b, kv[i], kv[i+1], hpack.Auto)
	}
	return b
}

var getFields = []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "emoji"}
var postFields = []string{":method", "POST", ":scheme", "http", ":path", "/", ":authority", "emoji"}

func (p *rawPeer) headers(id uint32, end bool, kv ...string) {
	p.Helper()
	p.send(frame.AppendHeaders(nil, id, p.block(kv...), end, frame.MinMaxSize))
}

// frames returns what came since the last call, a line for each frame.
func (p *rawPeer) frames() []string {
	p.Helper()
	p.loop.Run(p)
	p.b = append(p.b, p.conn.Take()...)
	var lines []string
	for {
		h, payload, rest, ok, err := frame.Split(p.b, frame.MinMaxSize)
		if err != nil {
			p.Fatal(err)
		}
		if !ok {
			return lines
		}
		p.b = rest
		line := fmt.Sprintf("%v %d", h.Type, h.Stream)
		switch h.Type {
		case frame.Data:
			line += fmt.Sprintf(" %d", len(payload))
		case frame.Headers:
			err := p.dec.Decode(payload, 1<<20, func(name, value string, _ uint8, _ bool) {
				if name == ":status" || name == ":path" || !strings.HasPrefix(name, ":") {
					line += " " + strings.TrimPrefix(name, ":") + "=" + value
				}
			})
			if err != nil {
				p.Fatal(err)
			}
		case frame.RSTStream:
			line += fmt.Sprintf(" %d", frame.ParseCode(payload))
		case frame.WindowUpdate:
			line += fmt.Sprintf(" +%d", frame.ParseWindow(payload))
		case frame.GoAway:
			last, code, debug := frame.ParseGoAway(payload)
			line += fmt.Sprintf(" last=%d code=%d %s", last, code, debug)
		case frame.Ping:
			line += fmt.Sprintf(" %x", frame.ParsePing(payload))
		}
		if h.Type != frame.Data && h.Type != frame.Headers && h.Flags.Has(frame.Ack) {
			line += " ack"
		}
		if (h.Type == frame.Data || h.Type == frame.Headers) && h.Flags.Has(frame.EndStream) {
			line += " end"
		}
		lines = append(lines, line)
	}
}

func (p *rawPeer) want(lines ...string) {
	p.Helper()
	if got := p.frames(); strings.Join(got, "\n") != strings.Join(lines, "\n") {
		p.Errorf("got %q, want %q", got, lines)
	}
}

// find reports whether a line with that prefix came.
func (p *rawPeer) find(prefix string) bool {
	for _, l := range p.frames() {
		if strings.HasPrefix(l, prefix) {
			return true
		}
	}
	return false
}

func pipe(p *rawPeer) (ours, theirs *aiotest.Conn) { return aiotest.Pipe(p.loop, 1<<20) }
