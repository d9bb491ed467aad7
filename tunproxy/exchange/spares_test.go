package exchange

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/resilience"
)

// An exchange that is used again must not know anything of its last life.
func TestASpareIsLikeNew(t *testing.T) {
	w := newWorld(t)
	w.get(false, "a", "b")
	w.asked.Memo, w.asked.Waiting = w, w
	w.send("body", false)
	w.ups[0].refuse()
	w.down.r.Trailers(w.down, []message.Field{{Name: "x", Value: "y"}})
	w.respond(w.ups[1], 200, false)
	w.reply(w.ups[1], "answer", false)
	w.ups[1].r.Trailers(w.ups[1], []message.Field{{Name: "grpc-status", Value: "7"}})
	w.over(Undelivered, Success)

	x := w.cfg.Spares.take()
	if x != w.asked {
		t.Fatal("another exchange")
	}
	for _, l := range [][]message.Field{x.req.Fields, x.trailers, x.res.Trailers} {
		for _, f := range l[:cap(l)] {
			if f != (message.Field{}) {
				t.Errorf("%v is left", f)
			}
		}
	}
	for _, e := range x.tried[:cap(x.tried)] {
		if e != nil {
			t.Error("an endpoint is left")
		}
	}
	x.req.Fields, x.trailers, x.res.Trailers, x.tried = nil, nil, nil, nil
	if !reflect.DeepEqual(x, &Exchange{}) {
		t.Errorf("%+v is left", x)
	}
}

// Callers up the stack may look at an exchange that is over; only the next pass
// may give it to somebody else.
func TestASpareWaitsForThePass(t *testing.T) {
	w := newWorld(t)
	w.get(true)
	w.respond(w.ups[0], 200, true)
	second := &stream{}
	w.cfg.Serve(second)
	if first := w.asked; second.r == message.Receiver(first) || first.Request().Method != "GET" {
		t.Fatal("used again too soon")
	}
	w.over(Success)
	third := &stream{}
	if w.cfg.Serve(third); third.r != message.Receiver(w.asked) {
		t.Fatal("not used again")
	}
}

// A stream that cannot be given back may still call: its exchange is never
// used again.
func TestAStreamWithoutReleaseKeepsItsExchange(t *testing.T) {
	w := newWorld(t)
	plain := struct{ message.Stream }{&stream{}}
	w.cfg.Serve(plain)
	r := plain.Stream.(*stream).r
	r.Head(plain, &message.Head{Method: "GET", Path: "/"}, true)
	w.respond(w.ups[0], 200, false)
	w.reply(w.ups[0], "body", true)
	w.loop.Run(t)
	r.Drained(plain, 4)
	if len(w.ends) != 1 || len(w.cfg.Spares.free) != 0 {
		t.Fatalf("%d ends, %d spare", len(w.ends), len(w.cfg.Spares.free))
	}
}

// Long lists are used again, and nothing is left in them, or in the draft, of the
// messages that they held.
func TestLongHeadsCostNoLists(t *testing.T) {
	for _, n := range []int{maxFields + 1, 128, 500, 1088} {
		w := newWorld(t)
		w.cfg.Observers = nil
		up, down, e, resp := &still{}, &still{}, &quiet{}, &message.Head{Status: 200}
		w.cfg.Opener = opener(func(x *Exchange) { x.Opened(Upstream{Stream: up, Endpoint: e}) })
		req := &message.Head{Method: "GET", Path: "/", Version: message.HTTP2}
		for range n {
			req.Fields = append(req.Fields, message.Field{Name: "a", Value: "b"})
		}
		call := func(h *message.Head) {
			w.cfg.Serve(down)
			down.r.Head(down, h, true)
			up.r.Head(up, resp, true)
			w.loop.Pass()
		}
		call(req)
		if a := testing.AllocsPerRun(100, func() { call(req) }); a > 0 {
			t.Errorf("%d fields: %v allocations", n, a)
		}
		call(&message.Head{Method: "GET", Path: "/"})
		s := w.cfg.Spares
		l := s.lists.get(n + roomToAdd)
		for _, f := range l[:cap(l)] {
			if f != (message.Field{}) {
				t.Fatalf("%v is left in a list", f)
			}
		}
		for _, f := range s.out.head.Fields[:cap(s.out.head.Fields)] {
			if f != (message.Field{}) {
				t.Fatalf("%v is left in the draft", f)
			}
		}
	}
}

// What a translator took out of a draft is gone with it, too.
func TestADraftForgets(t *testing.T) {
	fields := func(n int) []message.Field { return slices.Repeat([]message.Field{{Name: "a", Value: "b"}}, n) }
	for _, shrink := range []int{0, 2, 5} {
		d := &draft{}
		d.copyHead(&message.Head{Fields: fields(5)})
		d.head.Fields = d.head.Fields[:5-shrink]
		d.copyHead(&message.Head{Fields: fields(3)})
		d.head.Fields = append(d.head.Fields, fields(9)...) // and another array
		d.copy(fields(1))
		for i, f := range d.head.Fields[:cap(d.head.Fields)] {
			if (i == 0) == (f == message.Field{}) {
				t.Errorf("field %d is %v", i, f)
			}
		}
	}
}

func TestSparesAreBounded(t *testing.T) {
	w := newWorld(t)
	for range maxSpare + 10 {
		s := &stream{}
		w.cfg.Serve(s)
		s.r.Head(s, &message.Head{Method: "GET", Path: "/", Fields: make([]message.Field, 2*maxFields)}, true)
		w.respond(w.ups[len(w.ups)-1], 200, true)
	}
	w.loop.Run(t)
	if n := len(w.cfg.Spares.free); n != maxSpare {
		t.Errorf("%d exchanges are kept", n)
	}
	for _, x := range w.cfg.Spares.free {
		if cap(x.req.Fields) > maxFields {
			t.Fatalf("room for %d fields is kept", cap(x.req.Fields))
		}
	}
	for range 2 * maxBodies / maxBody {
		w.cfg.Spares.freeBody(make([]byte, maxBody))
		w.cfg.Spares.freeBody(make([]byte, maxBody+1))
	}
	if n := len(w.cfg.Spares.bodies); n != maxBodies/maxBody || w.cfg.Spares.size != maxBodies {
		t.Errorf("%d bodies of %d bytes are kept", n, w.cfg.Spares.size)
	}
}

// TestLongLists: one that is used again knows nothing of its last life, and costs
// nothing; one that has grown is not kept.
func TestLongLists(t *testing.T) {
	var l lists
	for n := 65; n <= listSize(listSizes-1); n += 50 {
		f := l.get(n)
		if len(f) != 0 || cap(f) < n {
			t.Fatalf("%d: %d of %d", n, len(f), cap(f))
		}
		for range cap(f) {
			f = append(f, message.Field{Name: "x", Value: "y"})
		}
		l.put(f)
		f = l.get(n)
		for _, field := range f[:cap(f)] {
			if field != (message.Field{}) {
				t.Fatalf("%d: %v is left", n, field)
			}
		}
		l.put(f)
		l.put(make([]message.Field, 0, cap(f)+1))
		if again := l.get(n); cap(again) != cap(f) {
			t.Errorf("room for %d", cap(again))
		}
	}
	if f := l.get(2000); cap(f) != 2000 {
		t.Errorf("room for %d", cap(f))
	}
	if n := testing.AllocsPerRun(1000, func() { l.put(l.get(500)) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestNoAllocations: a request with a small body and its response, under no terms
// and where it would be sent again.
func TestNoAllocations(t *testing.T) {
	armed := &Terms{Policy: &resilience.Policy{Retry: retrying5xx()}, Budget: resilience.NewBudget(resilience.BudgetPolicy{}), Rand: func() uint64 { return 0 }}
	for _, terms := range []*Terms{nil, armed} {
		for _, kind := range []string{"text/plain", "application/grpc"} {
			noAllocations(t, terms, kind)
		}
	}
}

func noAllocations(t *testing.T, terms *Terms, kind string) {
	t.Helper()
	w := newWorld(t)
	w.cfg.Observers = nil
	up, down, e := &still{}, &still{}, &quiet{}
	w.cfg.Opener = opener(func(x *Exchange) {
		x.Guard(terms)
		x.Opened(Upstream{Stream: up, Endpoint: e})
	})
	req := &message.Head{Method: "POST", Path: "/", Version: message.HTTP2, Fields: make([]message.Field, 5)}
	req.Fields[0] = message.Field{Name: "content-type", Value: kind}
	resp := &message.Head{Status: 200, Fields: make([]message.Field, 3)}
	trailers := []message.Field{{Name: "grpc-status", Value: "0"}}
	body := []byte(strings.Repeat("x", 100))
	call := func() {
		w.cfg.Serve(down)
		down.r.Head(down, req, false)
		down.r.Data(down, body, true)
		up.r.Head(up, resp, false)
		up.r.Data(up, body, false)
		up.r.Trailers(up, trailers)
		w.loop.Pass()
	}
	for range 10 {
		call()
	}
	if n := testing.AllocsPerRun(100, call); n != 0 {
		t.Errorf("%s, retries armed %v: %v allocations", kind, terms != nil, n)
	}
	if up.released != down.released || e.ended != up.released {
		t.Errorf("%d and %d streams given back, %d attempts", up.released, down.released, e.ended)
	}
}

// still is a stream that only counts.
type still struct {
	r        message.Receiver
	released int
}

func (s *still) SetReceiver(r message.Receiver) { s.r = r }
func (*still) SendHead(*message.Head, bool)     {}
func (*still) SendData([]byte, bool)            {}
func (*still) SendTrailers([]message.Field)     {}
func (*still) Consumed(int)                     {}
func (*still) Abort(message.Code)               {}
func (*still) Delivered() bool                  { return true }
func (s *still) Release()                       { s.released++ }

type quiet struct{ ended int }

func (q *quiet) Ended(Outcome, time.Duration) { q.ended++ }

type opener func(*Exchange)

func (o opener) Open(x *Exchange) { o(x) }
func (opener) Cancel(*Exchange)   {}
