package exchange

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// stream is a fake: it notes what was sent and lets the test play its peer.
type stream struct {
	r           message.Receiver
	head        *message.Head
	info        []int
	data        []byte
	trailers    []message.Field
	end         bool
	consumed    int
	aborted     bool
	code        message.Code
	undelivered bool
	released    bool
}

// alive: nothing may be asked of a stream that was given back.
func (s *stream) alive() {
	if s.released {
		panic("a call after Release")
	}
}

func (s *stream) Release() {
	s.alive()
	s.released = true
	s.r = deaf{}
}

// deaf hears what a stream's peer still says after Release.
type deaf struct{}

func (deaf) Head(message.Stream, *message.Head, bool)    {}
func (deaf) Data(message.Stream, []byte, bool)           {}
func (deaf) Trailers(message.Stream, []message.Field)    {}
func (deaf) Drained(message.Stream, int)                 {}
func (deaf) Aborted(message.Stream, message.Code, error) {}

func (s *stream) SetReceiver(r message.Receiver) { s.alive(); s.r = r }
func (s *stream) SendHead(h *message.Head, end bool) {
	s.alive()
	if s.aborted || s.end {
		panic("SendHead after the end")
	}
	if h.Informational() {
		s.info = append(s.info, h.Status)
		return
	}
	s.head, s.end = h.Clone(), end
}

func (s *stream) SendData(p []byte, end bool) {
	s.alive()
	if s.aborted {
		return
	}
	if s.head == nil || s.end {
		panic("SendData out of order")
	}
	s.data, s.end = append(s.data, p...), end
}

func (s *stream) SendTrailers(f []message.Field) {
	s.alive()
	if s.head == nil || s.end {
		panic("SendTrailers out of order")
	}
	s.trailers, s.end = append([]message.Field{}, f...), true
}
func (s *stream) Consumed(n int)          { s.alive(); s.consumed += n }
func (s *stream) Abort(code message.Code) { s.alive(); s.aborted, s.code = true, code }
func (s *stream) Delivered() bool         { s.alive(); return !s.undelivered }
func (s *stream) refuse()                 { s.undelivered = true; s.r.Aborted(s, message.RefusedStream, nil) }
func (s *stream) get(name string) string {
	v, _ := s.head.Get(name)
	return v
}

type endpoint struct {
	outcomes []Outcome
	first    time.Duration
}

func (e *endpoint) Ended(o Outcome, first time.Duration) {
	e.outcomes = append(e.outcomes, o)
	e.first = first
}

// world is a client's stream, and an Opener that hands out streams in order.
type world struct {
	t         *testing.T
	loop      *aiotest.Loop
	cfg       Config
	down      *stream
	ups       []*stream
	endpoints []*endpoint
	fail      *Error
	terms     *Terms
	later     bool // the test answers Open itself
	asked     *Exchange
	canceled  int
	requests  int
	responses int
	ends      []Result
	inflight  int
	retries   counts
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, loop: aiotest.NewLoop(), down: &stream{}}
	w.cfg = Config{
		Loop: w.loop, Opener: w, Observers: []Observer{w},
		Began: func() { w.inflight++ }, Ended: func() { w.inflight-- },
		Spares: NewSpares(),
	}
	w.loop.Advance(t, time.Second)
	w.cfg.Serve(w.down)
	return w
}

func (w *world) Open(x *Exchange) {
	w.asked = x
	x.Guard(w.terms)
	switch {
	case w.later:
	case w.fail != nil:
		x.Fail(w.fail)
	default:
		w.opened()
	}
}

func (w *world) opened() {
	s, e := &stream{}, &endpoint{}
	w.ups, w.endpoints = append(w.ups, s), append(w.endpoints, e)
	w.asked.Opened(Upstream{Stream: s, Endpoint: e})
}

func (w *world) Cancel(*Exchange)                     { w.canceled++ }
func (w *world) Request(*Exchange)                    { w.requests++ }
func (w *world) Response(*Exchange, *message.Head)    { w.responses++ }
func (w *world) End(_ *Exchange, r *Result)           { w.ends = append(w.ends, *r) }
func (w *world) get(end bool, fields ...string)       { w.request("GET", message.HTTP2, end, fields...) }
func (w *world) respond(s *stream, st int, end bool)  { s.r.Head(s, &message.Head{Status: st}, end) }
func (w *world) send(body string, end bool)           { w.down.r.Data(w.down, []byte(body), end) }
func (w *world) reply(s *stream, body string, e bool) { s.r.Data(s, []byte(body), e) }
func (w *world) request(method string, v message.Version, end bool, fields ...string) {
	h := &message.Head{Method: method, Path: "/", Authority: "svc", Version: v}
	for i := 0; i < len(fields); i += 2 {
		h.Fields = append(h.Fields, message.Field{Name: fields[i], Value: fields[i+1]})
	}
	w.down.r.Head(w.down, h, end)
}

// over checks that the books are closed: one End, nothing in flight, one outcome
// an attempt, all streams given back, and the exchange fit for another use.
func (w *world) over(want ...Outcome) Result {
	w.t.Helper()
	if len(w.ends) != 1 || w.inflight != 0 || w.requests != 1 {
		w.t.Fatalf("%d ends, %d in flight, %d requests", len(w.ends), w.inflight, w.requests)
	}
	if len(w.endpoints) != len(want) {
		w.t.Fatalf("%d attempts, want %d", len(w.endpoints), len(want))
	}
	for i, e := range w.endpoints {
		if len(e.outcomes) != 1 || e.outcomes[0] != want[i] {
			w.t.Fatalf("attempt %d: outcomes %v, want %v", i, e.outcomes, want[i])
		}
	}
	if !w.asked.reqEnd && !w.asked.downGone {
		return w.ends[0] // the rest of the request is still to come
	}
	for i, s := range append(w.ups, w.down) {
		if !s.released {
			w.t.Fatalf("stream %d of %d is still held", i, len(w.ups))
		}
	}
	w.loop.Run(w.t)
	if n := len(w.cfg.Spares.free); n != 1 {
		w.t.Fatalf("%d exchanges are spare", n)
	}
	return w.ends[0]
}

func TestRequestAndResponseCross(t *testing.T) {
	w := newWorld(t)
	w.get(false, "a", "b")
	up := w.ups[0]
	w.send("body", false)
	w.down.r.Trailers(w.down, []message.Field{{Name: "x", Value: "y"}})
	if string(up.data) != "body" || !up.end || len(up.trailers) != 1 || up.get("a") != "b" {
		t.Fatalf("up got %q, end %v, trailers %v", up.data, up.end, up.trailers)
	}
	if w.down.consumed != 0 {
		t.Fatal("consumed before it was drained")
	}
	up.r.Drained(up, 4)
	if w.down.consumed != 4 {
		t.Fatalf("consumed %d of 4", w.down.consumed)
	}
	w.loop.Advance(t, 5*time.Millisecond)
	w.respond(up, 103, false)
	w.respond(up, 200, false)
	w.reply(up, "answer", false)
	w.down.r.Drained(w.down, 6)
	if up.consumed != 6 {
		t.Fatalf("upstream's window: %d of 6 back", up.consumed)
	}
	w.loop.Advance(t, 5*time.Millisecond)
	up.r.Trailers(up, []message.Field{{Name: "grpc-status", Value: "0"}})
	if string(w.down.data) != "answer" || !w.down.end || len(w.down.info) != 1 {
		t.Fatalf("down got %q, end %v, informational %v", w.down.data, w.down.end, w.down.info)
	}
	r := w.over(Success)
	if r.Status != 200 || r.GRPCStatus != 0 || r.RequestBytes != 4 || r.ResponseBytes != 6 || r.FirstByte != 5*time.Millisecond || r.Total != 10*time.Millisecond || r.Failed() {
		t.Fatalf("result %+v", r)
	}
	if w.endpoints[0].first != 5*time.Millisecond {
		t.Fatalf("the endpoint's time to first byte is %v", w.endpoints[0].first)
	}
}

func TestWhatEndpointsAnswerIsSorted(t *testing.T) {
	for want, answers := range map[Outcome][]message.Head{
		Success: {{Status: 200}, {Status: 404}, {Status: 200, Fields: []message.Field{{Name: "grpc-status", Value: "5"}}}},
		Failure: {{Status: 500}, {Status: 503}, {Status: 200, Fields: []message.Field{{Name: "grpc-status", Value: "14"}}}},
		Limited: {{Status: 429}, {Status: 200, Fields: []message.Field{{Name: "grpc-status", Value: "8"}}}},
	} {
		for i := range answers {
			w := newWorld(t)
			w.get(true)
			w.ups[0].r.Head(w.ups[0], &answers[i], true)
			w.over(want)
		}
	}
}

func TestBodyThatComesBeforeTheEndpointIsHeld(t *testing.T) {
	w := newWorld(t)
	w.later = true
	w.get(false)
	w.send("one", false)
	w.send("two", true)
	w.opened()
	if up := w.ups[0]; string(up.data) != "onetwo" || !up.end {
		t.Fatalf("up got %q, end %v", up.data, up.end)
	}
}

func TestUndeliveredRequestGoesElsewhere(t *testing.T) {
	w := newWorld(t)
	w.request("POST", message.HTTP2, false)
	w.send("body", false)
	first := w.ups[0]
	first.r.Drained(first, 4)
	first.refuse()
	if len(w.ups) != 2 || !w.asked.Tried(w.endpoints[0]) || w.asked.Tried(w.endpoints[1]) {
		t.Fatalf("%d attempts", len(w.ups))
	}
	w.send(" and more", true)
	second := w.ups[1]
	if string(second.data) != "body and more" || !second.end {
		t.Fatalf("the second endpoint got %q, end %v", second.data, second.end)
	}
	second.r.Drained(second, 13)
	if w.down.consumed != 13 {
		t.Fatalf("consumed %d of 13: bytes sent twice count once", w.down.consumed)
	}
	w.respond(second, 200, true)
	if r := w.over(Undelivered, Success); r.Retries != 1 || w.down.head.Status != 200 {
		t.Fatalf("%d retries, status %d", r.Retries, w.down.head.Status)
	}
}

func TestUnansweredRequestIsRepeatedIfItMayBe(t *testing.T) {
	cut := errors.New("cut")
	for method, again := range map[string]bool{"GET": true, "PUT": true, "DELETE": true, "POST": false, "PATCH": false, "BREW": false} {
		t.Run(method, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.Unanswered = func(err error) bool { return errors.Is(err, cut) }
			w.request(method, message.HTTP2, true)
			w.ups[0].r.Aborted(w.ups[0], message.InternalError, cut)
			if !again {
				if len(w.ups) != 1 || w.down.head.Status != 502 {
					t.Fatalf("%d attempts, %+v", len(w.ups), w.down.head)
				}
				return
			}
			if len(w.ups) != 2 || w.asked.Tried(w.endpoints[0]) || w.ups[1].head.Method != method {
				t.Fatalf("%d attempts, the first endpoint is left out: %v", len(w.ups), w.asked.Tried(w.endpoints[0]))
			}
			// Another error proves nothing.
			w.ups[1].r.Aborted(w.ups[1], message.InternalError, errors.New("reset"))
			if len(w.ups) != 2 || w.down.head.Status != 502 {
				t.Fatalf("%d attempts, %+v", len(w.ups), w.down.head)
			}
		})
	}
}

func TestTrailersAreReplayed(t *testing.T) {
	w := newWorld(t)
	w.get(false)
	w.send("b", false)
	w.down.r.Trailers(w.down, []message.Field{{Name: "x", Value: "y"}})
	w.ups[0].refuse()
	if up := w.ups[1]; string(up.data) != "b" || len(up.trailers) != 1 || !up.end {
		t.Fatalf("second endpoint: %q %v %v", up.data, up.trailers, up.end)
	}
}

func TestDeliveredRequestIsNotRepeated(t *testing.T) {
	w := newWorld(t)
	w.get(true)
	w.ups[0].r.Aborted(w.ups[0], message.InternalError, errors.New("connection reset"))
	r := w.over(Failure)
	if w.down.head.Status != 502 || w.down.get(hop.FieldProxyError) != "connection broken" || r.ProxyError == "" || !r.Failed() {
		t.Fatalf("status %d, result %+v", w.down.head.Status, r)
	}
	if !strings.Contains(string(w.down.data), "connection reset") {
		t.Fatalf("the body names no cause: %q", w.down.data)
	}
}

func TestLongBodyIsNotReplayed(t *testing.T) {
	w := newWorld(t)
	w.get(false)
	w.send(strings.Repeat("x", replayLimit+1), false)
	w.ups[0].refuse()
	if w.down.head == nil || w.down.head.Status != 502 || len(w.ups) != 1 {
		t.Fatalf("head %+v, attempts %d", w.down.head, len(w.ups))
	}
	if w.down.consumed != replayLimit+1 {
		t.Fatalf("%d bytes of the request's window came back, want all", w.down.consumed)
	}
	w.over(Undelivered)
}

func TestAttemptsAreBounded(t *testing.T) {
	w := newWorld(t)
	w.get(true)
	for i := 0; w.down.head == nil; i++ {
		if i > maxAttempts {
			t.Fatal("no end of attempts")
		}
		w.ups[i].refuse()
	}
	if len(w.ups) != maxAttempts || w.down.head.Status != 502 {
		t.Fatalf("%d attempts, status %d", len(w.ups), w.down.head.Status)
	}
}

func TestErrorsForHTTPAndGRPC(t *testing.T) {
	for _, e := range []*Error{ErrDenied, ErrNoEndpoint, ErrTimeout, ErrOverload} {
		w := newWorld(t)
		w.fail = e
		w.request("POST", message.HTTP11, false)
		if w.down.head.Status != e.Status || w.down.get(hop.FieldProxyError) != e.Name || !w.down.end {
			t.Fatalf("%s: head %+v", e.Name, w.down.head)
		}
		if w.down.head.ContentLength != int64(len(w.down.data)) {
			t.Fatalf("%s: content-length %d of %d", e.Name, w.down.head.ContentLength, len(w.down.data))
		}
		w.over()

		w = newWorld(t)
		w.fail = e
		w.get(true, "content-type", "application/grpc+proto")
		if w.down.head.Status != 200 || !w.down.end || len(w.down.data) != 0 {
			t.Fatalf("%s: gRPC head %+v", e.Name, w.down.head)
		}
		if r := w.over(); r.GRPCStatus != e.GRPCStatus || r.Failed() != (e != ErrDenied) {
			t.Fatalf("%s: result %+v", e.Name, r)
		}
	}
	w := newWorld(t)
	w.fail = ErrNoEndpoint
	w.request("HEAD", message.HTTP11, true)
	if len(w.down.data) != 0 || !w.down.end || w.down.get("content-length") == "0" {
		t.Fatalf("HEAD: %q, end %v", w.down.data, w.down.end)
	}
}

func TestTowardsASidecarUndeliveredIsRefused(t *testing.T) {
	w := newWorld(t)
	w.cfg.RefuseUndelivered = true
	w.fail = ErrRefusedEverywhere
	w.get(true)
	if !w.down.aborted || w.down.code != message.RefusedStream || w.down.head != nil {
		t.Fatalf("aborted %v with %v, head %v", w.down.aborted, w.down.code, w.down.head)
	}
	w.over()

	w = newWorld(t) // but a denial is an answer
	w.cfg.RefuseUndelivered = true
	w.fail = ErrDenied
	w.get(true)
	if w.down.aborted || w.down.head.Status != 403 {
		t.Fatalf("aborted %v, head %v", w.down.aborted, w.down.head)
	}
}

func TestALateHandshakeFailureIsNoDelivery(t *testing.T) {
	late := errors.New("alert")
	w := newWorld(t)
	w.cfg.Undelivered = func(err error) bool { return errors.Is(err, late) }
	w.get(true)
	w.ups[0].r.Aborted(w.ups[0], message.InternalError, late)
	if len(w.ups) != 2 {
		t.Fatal("not tried elsewhere")
	}
	w.respond(w.ups[1], 200, true)
	w.over(Undelivered, Success)
}

func TestClientLeaves(t *testing.T) {
	w := newWorld(t)
	w.later = true
	w.get(true)
	w.down.r.Aborted(w.down, message.Cancel, nil)
	if w.canceled != 1 {
		t.Fatal("the opener was not told")
	}
	w.opened() // too late: the stream is not ours to keep
	if !w.ups[0].aborted || w.ups[0].head != nil {
		t.Fatal("a stream that came too late was used")
	}
	w.over(Canceled)

	w = newWorld(t)
	w.get(true)
	w.respond(w.ups[0], 200, false)
	w.reply(w.ups[0], "part", false)
	w.down.r.Aborted(w.down, message.Cancel, nil)
	if up := w.ups[0]; !up.aborted || up.code != message.Cancel || up.consumed != 4 {
		t.Fatalf("upstream aborted %v with %v, %d of 4 bytes back", up.aborted, up.code, up.consumed)
	}
	w.over(Canceled)
}

func TestBrokenResponseIsNeverMadeWhole(t *testing.T) {
	broken := errors.New("peer vanished")
	w := newWorld(t)
	w.get(true)
	w.respond(w.ups[0], 200, false)
	w.reply(w.ups[0], "par", false)
	w.ups[0].r.Aborted(w.ups[0], message.Cancel, broken)
	if w.down.end || !w.down.aborted || w.down.code != message.InternalError {
		t.Fatalf("end %v, aborted %v with %v", w.down.end, w.down.aborted, w.down.code)
	}
	w.over(Failure)

	w = newWorld(t)
	w.get(true)
	w.ups[0].r.Aborted(w.ups[0], message.EnhanceYourCalm, nil)
	if !w.down.aborted || w.down.code != message.EnhanceYourCalm {
		t.Fatalf("a reset's code did not cross: %v %v", w.down.aborted, w.down.code)
	}
	w.over(Failure)

	w = newWorld(t)
	w.get(true, "content-type", "application/grpc")
	w.respond(w.ups[0], 200, false)
	w.ups[0].r.Aborted(w.ups[0], message.Cancel, broken)
	if len(w.down.trailers) == 0 || w.down.trailers[0].Value != "14" {
		t.Fatalf("gRPC trailers %v", w.down.trailers)
	}
	w.over(Failure)
}

func TestEarlyResponseLetsTheUploadGo(t *testing.T) {
	w := newWorld(t)
	w.get(false)
	w.send("some", false)
	up := w.ups[0]
	w.respond(up, 413, true)
	if len(w.ends) != 0 {
		t.Fatal("over while the request goes on")
	}
	up.r.Aborted(up, message.NoError, nil)
	w.send("more", false)
	if w.down.consumed != 8 || w.down.aborted {
		t.Fatalf("consumed %d of 8, aborted %v", w.down.consumed, w.down.aborted)
	}
	w.send(strings.Repeat("x", stopAfter), false)
	if !w.down.aborted || w.down.code != message.NoError {
		t.Fatalf("an endless upload was not stopped: %v", w.down.code)
	}
	if r := w.over(Success); r.Status != 413 {
		t.Fatalf("result %+v", r)
	}
}

func TestAnUploadCutOffAfterTheResponseIsNoFailure(t *testing.T) {
	w := newWorld(t)
	w.get(false)
	w.send("some", false)
	w.respond(w.ups[0], 413, true)
	w.down.r.Aborted(w.down, message.NoError, nil)
	if !w.ups[0].aborted {
		t.Fatal("the endpoint still waits for the request")
	}
	if r := w.over(Success); r.WasReset || r.Failed() {
		t.Fatalf("result %+v", r)
	}
}

func TestAnEndpointThatStopsTheUploadBeforeItsResponseHasLeft(t *testing.T) {
	w := newWorld(t)
	w.get(false)
	w.respond(w.ups[0], 413, false)
	w.ups[0].r.Data(w.ups[0], []byte("large"), true)
	w.ups[0].r.Aborted(w.ups[0], message.NoError, nil)
	w.down.r.Drained(w.down, len("large"))
	if w.ups[0].consumed != len("large") {
		t.Fatalf("%d bytes given back to the endpoint", w.ups[0].consumed)
	}
	w.send("", true)
	if r := w.over(Success); r.Status != 413 || r.WasReset || r.Failed() {
		t.Fatalf("result %+v", r)
	}
}

func TestOwnAnswerDoesNotTouchUpstreamsWindow(t *testing.T) {
	w := newWorld(t)
	w.get(false)
	w.ups[0].r.Aborted(w.ups[0], message.Cancel, errors.New("gone"))
	w.down.r.Drained(w.down, len(w.down.data))
	if w.ups[0].consumed != 0 {
		t.Fatal("credit for bytes that upstream never sent")
	}
}

// tagger marks what passes it.
type tagger struct{ tag string }

func (g tagger) Request(h *message.Head) {
	h.Fields = append(h.Fields, message.Field{Name: "via", Value: g.tag})
}

func (g tagger) Response(h *message.Head) { g.Request(h) }

func (g tagger) Trailers(f []message.Field) []message.Field {
	return append(f, message.Field{Name: "via", Value: g.tag})
}

func TestTranslatorsSeeBothDirections(t *testing.T) {
	w := newWorld(t)
	w.cfg.Translate = tagger{"down"}
	w.later = true
	w.get(true)
	s, e := &stream{}, &endpoint{}
	w.ups, w.endpoints = append(w.ups, s), append(w.endpoints, e)
	w.asked.Opened(Upstream{Stream: s, Endpoint: e, Translate: tagger{"up"}})
	w.respond(s, 200, false)
	s.r.Trailers(s, []message.Field{{Name: "t", Value: "v"}})
	vias := func(f []message.Field) (out string) {
		for _, f := range f {
			if f.Name == "via" {
				out += " " + f.Value
			}
		}
		return out
	}
	if got := vias(s.head.Fields); got != " down up" {
		t.Fatalf("request passed%s", got)
	}
	if got := vias(w.down.head.Fields); got != " up down" {
		t.Fatalf("response passed%s", got)
	}
	if got := vias(w.down.trailers); got != " up down" {
		t.Fatalf("trailers passed%s", got)
	}
	w.over(Success)
}

func TestQuietExchangesAreNotTold(t *testing.T) {
	w := newWorld(t)
	w.later = true
	w.get(true)
	w.asked.Quiet = true
	w.opened()
	w.respond(w.ups[0], 200, true)
	if w.requests+w.responses+len(w.ends) != 0 || w.inflight != 0 {
		t.Fatalf("told of %d requests, %d responses, %d ends; %d in flight", w.requests, w.responses, len(w.ends), w.inflight)
	}
}

func TestGRPCMessageIsEscaped(t *testing.T) {
	if got := grpcMessage("50% off\nnow"); got != "50%25 off%0Anow" {
		t.Fatalf("got %q", got)
	}
}
