package exchange

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/resilience"
)

// counts is what Retries heard.
type counts struct{ retried, succeeded, limit, overflow int }

func (c *counts) Retried()       { c.retried++ }
func (c *counts) Succeeded()     { c.succeeded++ }
func (c *counts) LimitExceeded() { c.limit++ }
func (c *counts) Overflowed()    { c.overflow++ }

// retrying5xx tries again twice after 5xx and unavailable, with pauses of 25 and 50 ms.
func retrying5xx() *resilience.Retry {
	return &resilience.Retry{
		Statuses: []resilience.StatusRange{{First: 500, Last: 599}}, Codes: 1 << grpcUnavailable, Limit: 2,
		Backoff: resilience.Backoff{Min: 25 * time.Millisecond, Max: 250 * time.Millisecond},
	}
}

func (w *world) heard(want counts) {
	w.t.Helper()
	if w.retries != want {
		w.t.Errorf("counted %+v, want %+v", w.retries, want)
	}
}

func TestRetryAfterABadAnswer(t *testing.T) {
	w := under(t, resilience.Policy{Retry: retrying5xx()})
	w.request("POST", message.HTTP11, false)
	w.send("body", false)
	w.respond(w.ups[0], 503, false)
	if w.down.head != nil || !w.ups[0].aborted {
		t.Fatal("the bad answer went down, or its endpoint goes on")
	}
	w.ups[0].r.Data(w.ups[0], []byte("sorry"), true) // was under way
	w.loop.Advance(t, 24*time.Millisecond)
	if len(w.ups) != 1 {
		t.Fatal("no pause")
	}
	w.send(" in parts", false) // comes in the pause
	w.loop.Advance(t, time.Millisecond)
	if len(w.ups) != 2 || !w.asked.Failed(w.endpoints[0]) || w.asked.Failed(w.endpoints[1]) || !w.asked.Retried() {
		t.Fatalf("%d attempts", len(w.ups))
	}
	w.send("!", true)
	second := w.ups[1]
	if string(second.data) != "body in parts!" || !second.end {
		t.Fatalf("the second endpoint got %q, end %v", second.data, second.end)
	}
	w.respond(second, 500, true)
	w.loop.Advance(t, 50*time.Millisecond)
	third := w.ups[2]
	if string(third.data) != "body in parts!" || !third.end {
		t.Fatalf("the third endpoint got %q, end %v", third.data, third.end)
	}
	third.r.Drained(third, len(third.data))
	if w.down.consumed != len(third.data) {
		t.Errorf("consumed %d of %d: bytes sent again count once", w.down.consumed, len(third.data))
	}
	w.respond(third, 200, false)
	w.reply(third, "good", true)
	if w.down.head.Status != 200 || string(w.down.data) != "good" || w.down.aborted {
		t.Fatalf("the client got %+v %q", w.down.head, w.down.data)
	}
	if r := w.over(Failure, Failure, Success); r.Retries != 2 || r.ResponseBytes != 4 {
		t.Errorf("result %+v", r)
	}
	w.heard(counts{retried: 2, succeeded: 1})
	w.quiet()
}

func TestRetryLimit(t *testing.T) {
	w := under(t, resilience.Policy{Retry: retrying5xx()})
	w.get(true)
	for i := range 3 {
		w.respond(w.ups[i], 503, true)
		w.loop.Advance(t, time.Second)
	}
	if w.down.head == nil || w.down.head.Status != 503 {
		t.Fatalf("head %+v", w.down.head)
	}
	w.over(Failure, Failure, Failure)
	w.heard(counts{retried: 2, limit: 1})
	w.quiet()
}

func TestNoRetryOfWhatDoesNotAskForIt(t *testing.T) {
	for status, outcome := range map[int]Outcome{200: Success, 404: Success, 429: Limited} {
		w := under(t, resilience.Policy{Retry: retrying5xx()})
		w.get(true)
		w.respond(w.ups[0], status, true)
		if w.down.head == nil || w.down.head.Status != status {
			t.Fatalf("head %+v", w.down.head)
		}
		w.over(outcome)
		w.heard(counts{})
		w.quiet()
	}
	w := under(t, resilience.Policy{Retry: retrying5xx()}) // too long to be repeated
	w.get(false)
	w.send(strings.Repeat("x", replayLimit+1), true)
	w.respond(w.ups[0], 503, true)
	if w.down.head == nil || w.down.head.Status != 503 {
		t.Fatalf("head %+v", w.down.head)
	}
	w.over(Failure)
	w.quiet()
}

func TestRetryBudget(t *testing.T) {
	r := retrying5xx()
	r.Budget = resilience.BudgetPolicy{Ratio: 0.1, Window: 10 * time.Second}
	w := under(t, resilience.Policy{Retry: r})
	for range 18 { // with this exchange's own: 1.9 retries
		w.terms.Budget.Request(time.Second)
	}
	w.get(true)
	w.respond(w.ups[0], 503, true)
	w.loop.Advance(t, time.Second)
	w.respond(w.ups[1], 503, true)
	if w.down.head == nil || w.down.head.Status != 503 || len(w.ups) != 2 {
		t.Fatalf("head %+v after %d attempts", w.down.head, len(w.ups))
	}
	w.over(Failure, Failure)
	w.heard(counts{retried: 1, overflow: 1})
}

func TestRetryOfGRPC(t *testing.T) {
	unavailable := []message.Field{{Name: "grpc-status", Value: "14"}}
	grpc := func() *world {
		w := under(t, resilience.Policy{Retry: retrying5xx()})
		w.get(true, "content-type", "application/grpc")
		return w
	}
	good := func(w *world) {
		t.Helper()
		w.loop.Advance(t, time.Second)
		if len(w.ups) != 2 || w.down.head != nil {
			t.Fatalf("%d attempts, head %+v", len(w.ups), w.down.head)
		}
		up := w.ups[1]
		w.respond(up, 200, false)
		w.loop.Advance(t, headHold)
		if w.down.head == nil {
			t.Fatal("the head of a call that goes on is held for ever")
		}
		w.reply(up, "m", false)
		up.r.Trailers(up, []message.Field{{Name: "grpc-status", Value: "0"}})
		if string(w.down.data) != "m" || !w.down.end || len(w.down.trailers) != 1 {
			t.Fatalf("the client got %q, trailers %v", w.down.data, w.down.trailers)
		}
		w.over(Failure, Success)
		w.heard(counts{retried: 1, succeeded: 1})
		w.quiet()
	}
	w := grpc() // trailers only
	w.ups[0].r.Head(w.ups[0], &message.Head{Status: 200, Fields: unavailable}, true)
	good(w)

	w = grpc() // a head and trailers, together
	w.respond(w.ups[0], 200, false)
	w.ups[0].r.Trailers(w.ups[0], unavailable)
	good(w)

	w = grpc() // trailers after their head
	w.respond(w.ups[0], 200, false)
	w.loop.Advance(t, headHold/2)
	w.ups[0].r.Trailers(w.ups[0], unavailable)
	good(w)

	w = grpc() // a message after its head: neither waits
	w.respond(w.ups[0], 200, false)
	w.loop.Run(t)
	if w.down.head != nil {
		t.Fatal("a head went down before anything followed it")
	}
	w.reply(w.ups[0], "m", false)
	if w.down.head == nil || string(w.down.data) != "m" {
		t.Fatalf("head %v, data %q", w.down.head, w.down.data)
	}
	w.ups[0].r.Trailers(w.ups[0], []message.Field{{Name: "grpc-status", Value: "0"}})
	w.over(Success)
	w.quiet()

	w = under(t, resilience.Policy{Retry: retrying5xx()}) // a client with more to say
	w.get(false, "content-type", "application/grpc")
	w.respond(w.ups[0], 200, false)
	w.loop.Run(t)
	if w.down.head == nil {
		t.Fatal("a client that may wait for a head waits for it")
	}

	w = grpc() // a head, and broken
	w.respond(w.ups[0], 200, false)
	w.ups[0].r.Aborted(w.ups[0], message.Cancel, errors.New("gone"))
	good(w)

	w = grpc() // a message went down: never again
	w.respond(w.ups[0], 200, false)
	w.reply(w.ups[0], "m", false)
	w.ups[0].r.Trailers(w.ups[0], unavailable)
	if len(w.down.trailers) != 1 || string(w.down.data) != "m" {
		t.Fatalf("trailers %v", w.down.trailers)
	}
	w.over(Failure)
	w.quiet()

	w = grpc() // another status
	w.respond(w.ups[0], 200, false)
	w.ups[0].r.Trailers(w.ups[0], []message.Field{{Name: "grpc-status", Value: "5"}})
	if w.down.head == nil || len(w.down.trailers) != 1 {
		t.Fatalf("head %+v, trailers %v", w.down.head, w.down.trailers)
	}
	w.over(Success)
	w.heard(counts{})

	w = grpc() // the server asks for none
	w.ups[0].r.Head(w.ups[0], &message.Head{Status: 200, Fields: append(unavailable[:1:1], message.Field{Name: "grpc-retry-pushback-ms", Value: "-1"})}, true)
	w.over(Failure)
	w.quiet()

	w = grpc() // the client leaves while a head is held
	w.respond(w.ups[0], 200, false)
	w.down.r.Aborted(w.down, message.Cancel, nil)
	w.loop.Run(t)
	w.over(Canceled)
}

func TestRetryOfABrokenConnection(t *testing.T) {
	w := under(t, resilience.Policy{Retry: retrying5xx()})
	w.get(true)
	w.ups[0].r.Aborted(w.ups[0], message.Cancel, errors.New("connection reset"))
	w.loop.Advance(t, time.Second)
	w.ups[1].r.Aborted(w.ups[1], message.InternalError, nil)
	w.loop.Advance(t, time.Second)
	w.respond(w.ups[2], 200, true)
	w.over(Failure, Failure, Success)
	w.quiet()
}

func TestTryTimeout(t *testing.T) {
	r := retrying5xx()
	r.Timeout = 100 * time.Millisecond
	w := under(t, resilience.Policy{Retry: r})
	w.get(false)
	w.loop.Advance(t, time.Minute) // the request is not whole
	w.send("x", true)
	w.loop.Advance(t, 100*time.Millisecond)
	if !w.ups[0].aborted {
		t.Fatal("the first try goes on")
	}
	w.loop.Advance(t, 125*time.Millisecond)
	if len(w.ups) != 2 || !w.ups[1].aborted {
		t.Fatalf("%d attempts", len(w.ups))
	}
	w.loop.Advance(t, time.Hour) // the last one has the time it needs
	if len(w.ups) != 3 || w.ups[2].aborted || w.down.head != nil {
		t.Fatalf("%d attempts", len(w.ups))
	}
	w.respond(w.ups[2], 200, true)
	w.over(Failure, Failure, Success)
	w.heard(counts{retried: 2, succeeded: 1})

	w = under(t, resilience.Policy{Retry: r}) // a response that began has no limit
	w.get(true)
	w.respond(w.ups[0], 200, false)
	w.loop.Advance(t, time.Hour)
	w.reply(w.ups[0], "late", true)
	w.over(Success)
	w.quiet()
}

func TestRetriesEndWithTheRequest(t *testing.T) {
	w := under(t, resilience.Policy{Retry: retrying5xx(), Timeouts: resilience.Timeouts{Request: 10 * time.Millisecond}})
	w.get(true)
	w.respond(w.ups[0], 503, true)
	w.loop.Advance(t, 10*time.Millisecond) // in the pause
	w.timedOut("request timeout", Failure)

	w = under(t, resilience.Policy{Retry: retrying5xx()})
	w.get(true)
	w.respond(w.ups[0], 503, true)
	w.down.r.Aborted(w.down, message.Cancel, nil) // in the pause
	w.over(Failure)
	w.quiet()

	w = under(t, resilience.Policy{Retry: retrying5xx()})
	w.get(true)
	w.respond(w.ups[0], 503, true)
	w.later = true
	w.loop.Advance(t, time.Second)
	w.asked.Fail(ErrNoEndpoint) // nobody is there any more
	if w.down.head.Status != 503 || w.down.get("x-tunmesh-proxy-error") != "no endpoint" {
		t.Fatalf("head %+v", w.down.head)
	}
	w.over(Failure)
}

// chooser is an Opener that says whether there is another endpoint.
type chooser struct {
	*world
	elsewhere bool
}

func (c chooser) Elsewhere(x *Exchange) bool { return c.elsewhere && x.Failed(c.endpoints[0]) }

func TestRetryAfterIsHonoured(t *testing.T) {
	for _, tc := range []struct {
		value     string
		elsewhere bool
		retried   bool
	}{
		{"1", false, false},
		{"1", true, true},
		{"0", false, true},
		{"soon", false, true},
		{"Fri, 02 Jan 2026 03:05:05 GMT", false, false},
		{"Fri, 02 Jan 2026 03:00:00 GMT", false, true},
	} {
		w := under(t, resilience.Policy{Retry: retrying5xx()})
		w.cfg.Opener = chooser{w, tc.elsewhere}
		w.terms.Now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }
		w.get(true)
		w.ups[0].r.Head(w.ups[0], &message.Head{Status: 503, Fields: []message.Field{{Name: "Retry-After", Value: tc.value}}}, true)
		w.loop.Advance(t, time.Second)
		if got := len(w.ups) == 2; got != tc.retried {
			t.Errorf("%q, another endpoint %v: retried %v", tc.value, tc.elsewhere, got)
		}
		if !tc.retried && w.down.get("retry-after") != tc.value {
			t.Errorf("%q: the client is not told", tc.value)
		}
	}
}
