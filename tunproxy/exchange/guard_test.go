package exchange

import (
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/resilience"
)

// under is a world whose exchanges are under a policy.
func under(t *testing.T, p resilience.Policy) *world {
	t.Helper()
	w := newWorld(t)
	w.terms = &Terms{Policy: &p, Rand: func() uint64 { return 0 }, Retries: &w.retries}
	if p.Retry != nil {
		w.terms.Budget = resilience.NewBudget(p.Retry.Budget)
	}
	return w
}

// timedOut checks for an answer of the sidecar's that names a timeout.
func (w *world) timedOut(name string, want ...Outcome) {
	w.t.Helper()
	if w.down.head == nil || w.down.head.Status != 504 || w.down.get(hop.FieldProxyError) != name || !w.down.end {
		w.t.Fatalf("head %+v, want a 504 that names %q", w.down.head, name)
	}
	for i, up := range w.ups {
		if !up.aborted {
			w.t.Errorf("endpoint %d is still asked", i)
		}
	}
	if r := w.over(want...); r.ProxyError != name || !r.Failed() {
		w.t.Errorf("result %+v", r)
	}
	w.quiet()
}

// quiet checks that nothing happens any more.
func (w *world) quiet() {
	w.t.Helper()
	ends, ups := len(w.ends), len(w.ups)
	w.loop.Advance(w.t, time.Hour)
	if len(w.ends) != ends || len(w.ups) != ups {
		w.t.Errorf("something happened after the end: %d more ends, %d more attempts", len(w.ends)-ends, len(w.ups)-ups)
	}
}

func TestRequestTimeout(t *testing.T) {
	policy := resilience.Policy{Timeouts: resilience.Timeouts{Request: time.Second}}

	w := under(t, policy) // a silent endpoint
	w.get(true)
	w.loop.Advance(t, 999*time.Millisecond)
	if w.down.head != nil {
		t.Fatal("answered too early")
	}
	w.loop.Advance(t, time.Millisecond)
	w.timedOut("request timeout", Failure)

	w = under(t, policy) // no endpoint is found
	w.later = true
	w.get(false)
	w.send("body", false)
	w.loop.Advance(t, time.Second)
	if w.canceled != 1 {
		t.Error("the opener still looks")
	}
	w.timedOut("request timeout")

	w = under(t, policy) // a response that does not end
	w.get(true)
	w.respond(w.ups[0], 200, false)
	w.loop.Advance(t, 500*time.Millisecond)
	w.reply(w.ups[0], "part", false)
	w.loop.Advance(t, 500*time.Millisecond)
	if !w.down.aborted || w.down.code != message.Cancel || w.down.end || !w.ups[0].aborted {
		t.Fatalf("aborted %v with %v", w.down.aborted, w.down.code)
	}
	if r := w.over(Failure); r.ProxyError != "request timeout" {
		t.Errorf("result %+v", r)
	}
	w.quiet()

	w = under(t, policy) // gRPC: before a response, and in one
	w.get(true, "content-type", "application/grpc")
	w.loop.Advance(t, time.Second)
	if w.down.head.Status != 200 || w.down.get("grpc-status") != "4" {
		t.Fatalf("head %+v", w.down.head)
	}
	w = under(t, policy)
	w.get(true, "content-type", "application/grpc")
	w.respond(w.ups[0], 200, false)
	w.loop.Advance(t, time.Second)
	if len(w.down.trailers) == 0 || w.down.trailers[0].Value != "4" {
		t.Fatalf("trailers %v", w.down.trailers)
	}
	w.over(Failure)
	w.quiet()
}

func TestResponseTimeout(t *testing.T) {
	policy := resilience.Policy{Timeouts: resilience.Timeouts{Response: time.Second}}
	w := under(t, policy)
	w.get(false)
	w.loop.Advance(t, time.Minute) // the client takes its time
	w.send("body", true)
	w.loop.Advance(t, 999*time.Millisecond)
	if w.down.head != nil {
		t.Fatal("answered too early")
	}
	w.loop.Advance(t, time.Millisecond)
	w.timedOut("response timeout", Failure)

	w = under(t, policy) // counts anew for another endpoint
	w.get(true)
	w.loop.Advance(t, 900*time.Millisecond)
	w.ups[0].refuse()
	w.loop.Advance(t, 900*time.Millisecond)
	w.respond(w.ups[1], 200, true)
	w.over(Undelivered, Success)
	w.quiet()

	w = under(t, policy) // trailers end a request too
	w.get(false)
	w.down.r.Trailers(w.down, []message.Field{{Name: "x", Value: "y"}})
	w.loop.Advance(t, time.Second)
	w.timedOut("response timeout", Failure)
}

func TestIdleTimeout(t *testing.T) {
	policy := resilience.Policy{Timeouts: resilience.Timeouts{Idle: time.Second}}
	w := under(t, policy)
	w.get(false)
	for range 5 {
		w.loop.Advance(t, 900*time.Millisecond)
		w.send("x", false)
		w.loop.Advance(t, 900*time.Millisecond)
		w.ups[0].r.Drained(w.ups[0], 1)
	}
	w.respond(w.ups[0], 200, false)
	for range 5 {
		w.loop.Advance(t, 900*time.Millisecond)
		w.reply(w.ups[0], "x", false)
		w.loop.Advance(t, 900*time.Millisecond)
		w.down.r.Drained(w.down, 1)
	}
	w.loop.Advance(t, 999*time.Millisecond)
	if w.down.aborted {
		t.Fatal("cut off while things moved")
	}
	w.loop.Advance(t, time.Millisecond)
	if !w.down.aborted || !w.ups[0].aborted {
		t.Fatal("an idle exchange goes on")
	}
	w.over(Failure)
	w.quiet()
}

func TestTimeoutsEndWithWhatTheyBound(t *testing.T) {
	all := resilience.Policy{Timeouts: resilience.Timeouts{Request: time.Second, Response: time.Second, Idle: time.Second}}
	w := under(t, all) // a whole exchange
	w.get(true)
	w.respond(w.ups[0], 200, true)
	w.over(Success)
	w.quiet()

	w = under(t, all) // a tunnel
	w.request("GET", message.HTTP11, false)
	w.respond(w.ups[0], 101, false)
	w.loop.Advance(t, time.Hour)
	if w.down.aborted || len(w.ends) != 0 {
		t.Fatal("a tunnel was cut off")
	}
	w.down.r.Aborted(w.down, message.Cancel, nil)
	w.over(Canceled)

	w = under(t, all) // a client that left
	w.get(true)
	w.down.r.Aborted(w.down, message.Cancel, nil)
	w.over(Canceled)
	w.quiet()

	w = under(t, all) // a whole response, while the endpoint takes the rest of the request
	w.get(false)
	w.respond(w.ups[0], 200, true)
	w.loop.Advance(t, time.Hour)
	w.send("rest", true)
	if w.down.aborted || w.ups[0].aborted {
		t.Fatal("an upload was cut off after its response")
	}
	w.over(Success)
}

func TestTimeoutWithTheLateAnswerBehindIt(t *testing.T) {
	w := under(t, resilience.Policy{Timeouts: resilience.Timeouts{Request: time.Second}})
	w.request("POST", message.HTTP11, false)
	w.loop.Advance(t, time.Second)
	up := w.ups[0]
	w.respond(up, 200, false) // was under way
	w.reply(up, "late", true)
	up.r.Aborted(up, message.Cancel, nil)
	w.send("the rest", true)
	w.timedOut("request timeout", Failure)
	if w.down.consumed != len("the rest") {
		t.Errorf("%d bytes of the client's window came back", w.down.consumed)
	}
}
