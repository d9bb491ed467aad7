package tunproxy

import (
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/exchange"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

func TestSometimes(t *testing.T) {
	var s sometimes
	now := time.Unix(1000, 0)
	logged := 0
	for range 100 {
		if _, ok := s.admit(now); ok {
			logged++
		}
	}
	if logged != 1 {
		t.Errorf("%d of 100 lines in a second, want 1", logged)
	}
	if n, ok := s.admit(now.Add(time.Second)); !ok || n != 99 {
		t.Errorf("a second later: %v, %d dropped", ok, n)
	}
}

// TestAnswersOfRoutes: errors have Linkerd's names, and no status where the
// sidecar speaks for an endpoint.
func TestAnswersOfRoutes(t *testing.T) {
	for _, c := range []struct {
		a      exchange.Answer
		begun  bool
		status int
		err    string
	}{
		{exchange.Answer{Status: 200}, false, 200, ""},
		{exchange.Answer{Status: 503}, false, 503, ""},
		{exchange.Answer{Status: 504, ProxyError: exchange.ErrFailfast.Name}, false, 0, "FAIL_FAST"},
		{exchange.Answer{Status: 503, ProxyError: exchange.ErrNoEndpoint.Name}, false, 0, "FAIL_FAST"},
		{exchange.Answer{Status: 504, ProxyError: exchange.ErrTimeout.Name}, false, 0, "FAIL_FAST"},
		{exchange.Answer{Status: 503, ProxyError: exchange.ErrOverload.Name}, false, 0, "LOAD_SHED"},
		{exchange.Answer{Status: 504, ProxyError: exchange.ErrRequestTimeout.Name}, false, 0, "REQUEST_TIMEOUT"},
		{exchange.Answer{Status: 504, ProxyError: exchange.ErrResponseTimeout.Name}, false, 0, "RESPONSE_HEADERS_TIMEOUT"},
		{exchange.Answer{Status: 200, ProxyError: exchange.ErrResponseTimeout.Name, WasReset: true, Reset: message.Cancel}, true, 200, "RESPONSE_STREAM_TIMEOUT"},
		{exchange.Answer{Status: 200, ProxyError: exchange.ErrIdleTimeout.Name}, true, 200, "IDLE_TIMEOUT"},
		{exchange.Answer{Status: 502, ProxyError: exchange.ErrBroken.Name}, false, 0, "IO"},
		{exchange.Answer{Status: 502, ProxyError: exchange.ErrRefusedEverywhere.Name}, false, 0, "IO"},
		{exchange.Answer{Status: 502, ProxyError: exchange.ErrReset.Name}, false, 0, "RESET"},
		{exchange.Answer{Status: 404, ProxyError: exchange.ErrNoRoute.Name}, false, 404, ""},
		{exchange.Answer{Status: 500, ProxyError: "something new"}, false, 0, "UNKNOWN"},
		{exchange.Answer{WasReset: true, Reset: message.Cancel}, true, 0, "CANCEL"},
		{exchange.Answer{WasReset: true, Reset: message.RefusedStream}, true, 0, "REFUSED"},
		{exchange.Answer{WasReset: true, Reset: message.EnhanceYourCalm}, true, 0, "ENHANCE_YOUR_CALM"},
		{exchange.Answer{Status: 200, WasReset: true, Reset: message.InternalError}, true, 200, "RESET"},
		{exchange.Answer{Status: 200, WasReset: true}, true, 200, ""}, // the rest of an upload was not wanted
	} {
		if got := answerOf(c.a, c.begun); got.Status != c.status || got.Error != c.err {
			t.Errorf("%+v: status %d, error %q, want %d, %q", c.a, got.Status, got.Error, c.status, c.err)
		}
	}
}
