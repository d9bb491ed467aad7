package h2

import (
	"strconv"
	"testing"

	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// proxy joins each stream of a server with one of a client, as the exchange of
// a sidecar does at the least: what it costs is what the engine costs.
type proxy struct {
	server *Server
	client *Client
	spare  []*joint
}

type joint struct {
	p        *proxy
	down, up message.Stream
	downEnd  bool
	upEnd    bool
}

func (p *proxy) accept(s message.Stream) {
	var j *joint
	if k := len(p.spare); k > 0 {
		j = p.spare[k-1]
		p.spare = p.spare[:k-1]
	} else {
		j = &joint{p: p}
	}
	*j = joint{p: p, down: s}
	s.SetReceiver(j)
}

func (j *joint) Head(s message.Stream, h *message.Head, end bool) {
	if s == j.down {
		up, err := j.p.client.OpenStream()
		if err != nil {
			s.Abort(message.RefusedStream)
			return
		}
		j.up = up
		up.SetReceiver(j)
		up.SendHead(h, end)
		j.downEnd = end
		return
	}
	j.down.SendHead(h, end)
	j.ended(end)
}

func (j *joint) Data(s message.Stream, p []byte, end bool) {
	if s == j.down {
		j.downEnd = end
		j.up.SendData(p, end)
		return
	}
	j.down.SendData(p, end)
	j.ended(end)
}

func (j *joint) Trailers(s message.Stream, f []message.Field) {
	if s == j.down {
		j.downEnd = true
		j.up.SendTrailers(f)
		return
	}
	j.down.SendTrailers(f)
	j.ended(true)
}

func (j *joint) ended(end bool) {
	if j.upEnd = j.upEnd || end; j.upEnd && j.downEnd {
		j.up.(message.Releaser).Release()
		j.down.(message.Releaser).Release()
		j.p.spare = append(j.p.spare, j)
	}
}

func (j *joint) Drained(s message.Stream, n int) {
	if s == j.down {
		j.up.Consumed(n)
	} else {
		j.down.Consumed(n)
	}
}

func (j *joint) Aborted(s message.Stream, code message.Code, _ error) {
	if s == j.down {
		j.up.Abort(code)
	} else {
		j.down.Abort(code)
	}
}

// caller makes calls one after the other on as many streams as it likes.
type caller struct {
	client *Client
	head   *message.Head
	body   []byte
	calls  int // to be made
	ok     int
}

func (c *caller) start() {
	c.calls--
	s, err := c.client.OpenStream()
	if err != nil {
		panic(err)
	}
	s.SetReceiver(c)
	s.SendHead(c.head, len(c.body) == 0)
	if len(c.body) > 0 {
		s.SendData(c.body, true)
	}
}

func (c *caller) done(s message.Stream) {
	s.(message.Releaser).Release()
	c.ok++
	if c.calls > 0 {
		c.start()
	}
}

func (c *caller) Head(s message.Stream, _ *message.Head, end bool) {
	if end {
		c.done(s)
	}
}
func (c *caller) Data(s message.Stream, p []byte, end bool) {
	s.Consumed(len(p))
	if end {
		c.done(s)
	}
}
func (c *caller) Trailers(s message.Stream, _ []message.Field)        { c.done(s) }
func (c *caller) Drained(message.Stream, int)                         {}
func (c *caller) Aborted(_ message.Stream, _ message.Code, err error) { panic(err) }

// responder answers each request.
type responder struct {
	head     *message.Head
	body     []byte
	trailers []message.Field
}

func (r *responder) Head(s message.Stream, _ *message.Head, end bool) {
	if end {
		r.answer(s)
	}
}
func (r *responder) Data(s message.Stream, p []byte, end bool) {
	s.Consumed(len(p))
	if end {
		r.answer(s)
	}
}
func (r *responder) Trailers(s message.Stream, _ []message.Field) { r.answer(s) }
func (r *responder) Drained(message.Stream, int)                  {}
func (r *responder) Aborted(message.Stream, message.Code, error)  {}
func (r *responder) answer(s message.Stream) {
	s.SendHead(r.head, false)
	s.SendData(r.body, r.trailers == nil)
	if r.trailers != nil {
		s.SendTrailers(r.trailers)
	}
	s.(message.Releaser).Release()
}

// chain is client → proxy → server on one loop.
func chain(tb testing.TB, c *caller, r *responder) *aiotest.Loop {
	loop := aiotest.NewLoop()
	cfg := Config{Memory: NewMemory(), Keepalive: Keepalive{Interval: -1}}
	c1, s1 := aiotest.Pipe(loop, 1<<20)
	c2, s2 := aiotest.Pipe(loop, 1<<20)
	p := &proxy{}
	NewServer(s2, cfg, func(s message.Stream) { s.SetReceiver(r) })
	p.client = NewClient(c2, cfg)
	p.server = NewServer(s1, cfg, p.accept)
	c.client = NewClient(c1, cfg)
	loop.Run(tb)
	return loop
}

func grpcCall() (*caller, *responder) {
	h := post("/voting.Vote/Cast")
	h.Fields = []message.Field{
		{Name: "content-type", Value: "application/grpc"},
		{Name: "user-agent", Value: "grpc-go/1.85.0"},
		{Name: "te", Value: "trailers"},
		{Name: "grpc-timeout", Value: "999m"},
	}
	r := &responder{
		head:     &message.Head{Status: 200, Fields: []message.Field{{Name: "content-type", Value: "application/grpc"}}},
		body:     make([]byte, 105),
		trailers: []message.Field{{Name: "grpc-status", Value: "0"}, {Name: "grpc-message", Value: ""}},
	}
	return &caller{head: h, body: make([]byte, 105)}, r
}

// TestNoAllocations: a gRPC call through a proxy, with both its ends, allocates
// nothing in steady state.
func TestNoAllocations(t *testing.T) {
	c, r := grpcCall()
	loop := chain(t, c, r)
	const batch = 50
	round := func() {
		c.calls = batch
		for range 10 {
			c.start()
		}
		loop.Run(t)
	}
	for range 20 {
		round()
	}
	before := c.ok
	n := testing.AllocsPerRun(100, round)
	if c.ok-before != 101*batch {
		t.Fatalf("%d calls", c.ok-before)
	}
	// What is left is the fake's own: its lists of ready connections.
	if per := n / batch; per > 0.5 {
		t.Errorf("%.2f allocations per call", per)
	} else {
		t.Logf("%.3f allocations per call, all of them the fake loop's", per)
	}
}

// wide is a request of so many tiny fields.
func wide(n int) *message.Head {
	h := get("/")
	for i := range n {
		h.Fields = append(h.Fields, message.Field{Name: "x-" + strconv.Itoa(i%100), Value: strconv.Itoa(i)})
	}
	return h
}

func BenchmarkProxy(b *testing.B) {
	grpc, answer := grpcCall()
	for _, k := range []struct {
		name    string
		c       *caller
		r       *responder
		streams int
	}{
		{"grpc/1", grpc, answer, 1},
		{"grpc/16", grpc, answer, 16},
		{"grpc/100", grpc, answer, 100},
		{"get10k/16", &caller{head: get("/")}, &responder{head: &message.Head{Status: 200}, body: make([]byte, 10<<10)}, 16},
		{"fields500/16", &caller{head: wide(500)}, &responder{head: &message.Head{Status: 200}}, 16},
		{"get1m/1", &caller{head: get("/")}, &responder{head: &message.Head{Status: 200}, body: make([]byte, 1<<20)}, 1},
	} {
		b.Run(k.name, func(b *testing.B) {
			loop := chain(b, k.c, k.r)
			b.ReportAllocs()
			b.ResetTimer()
			k.c.calls, k.c.ok = b.N, 0
			for range min(k.streams, b.N) {
				k.c.start()
			}
			for loop.Pass() {
			}
			if k.c.ok != b.N {
				b.Fatalf("%d calls of %d", k.c.ok, b.N)
			}
		})
	}
}
