package tunproxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/resilience"
)

// careful tells all sidecars of a Service whose owner asks for a policy.
func (w *world) careful(vip string, p resilience.Policy, endpoints ...string) *discover.Target {
	s := &discover.Snapshot{
		Kind: discover.Service, Authority: vip, Labels: map[string]string{"service": "svc"}, Traffic: &p,
		Ref: discover.Ref{Kind: "Service", Namespace: "test", Name: "svc", Port: 80},
	}
	for _, e := range endpoints {
		s.Endpoints = append(s.Endpoints, w.endpoint(e))
	}
	return w.target(vip, s)
}

// A server that never answers costs its clients as long as the Service's owner
// says, over mTLS and without.
func TestRequestTimeoutOfAService(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	out := w.hostOutside("10.0.0.9")
	hang := make(chan struct{})
	defer close(hang)
	handler := func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}
		_, _ = io.WriteString(rw, "ok")
	}
	b.serveHTTP(80, handler)
	out.serveHTTP(80, handler)
	policy := resilience.Policy{Timeouts: resilience.Timeouts{Request: 150 * time.Millisecond}}
	w.careful("10.96.0.1:80", policy, "10.0.0.2:80=b")
	w.careful("10.96.0.2:80", policy, "10.0.0.9:80")
	c := a.client(true)
	for _, vip := range []string{"10.96.0.1", "10.96.0.2"} {
		began := time.Now()
		resp, err := c.Get("http://" + vip + "/hang")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 504 || resp.Header.Get(hop.FieldProxyError) != "request timeout" {
			t.Errorf("%s: %s %q", vip, resp.Status, resp.Header)
		}
		if d := time.Since(began); d < 150*time.Millisecond {
			t.Errorf("%s: answered after %v", vip, d)
		}
		if resp, err = c.Get("http://" + vip + "/"); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s: then %s", vip, resp.Status)
		}
	}
	if n := a.metric("outbound_http_errors_total", `error="request timeout"`); n != 2 {
		t.Errorf("%v timeouts counted, want 2", n)
	}
}

// retrying is what `retry.tunmesh.io/http: 5xx` with a limit asks for.
func retrying(limit int) *resilience.Retry {
	return &resilience.Retry{
		Statuses: []resilience.StatusRange{{First: 500, Last: 599}}, Codes: 1 << 14, Limit: limit,
		Backoff: resilience.Backoff{Min: time.Millisecond, Max: 10 * time.Millisecond, Jitter: 1},
		Budget:  resilience.BudgetPolicy{Ratio: 1, PerSecond: 100, Window: 10 * time.Second},
	}
}

// Of two endpoints one answers with errors, or breaks its connections. With
// retries no client sees it; without, some do.
func TestRetriesHideAFailingEndpoint(t *testing.T) {
	for _, meshed := range []bool{true, false} {
		for name, bad := range map[string]http.HandlerFunc{
			"errors": func(rw http.ResponseWriter, _ *http.Request) {
				rw.WriteHeader(503)
				_, _ = io.WriteString(rw, "out of order")
			},
			"breaks": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		} {
			t.Run(fmt.Sprintf("%s, meshed %v", name, meshed), func(t *testing.T) {
				w := newWorld(t)
				a, good := w.pod("a", "10.0.0.1"), w.pod("c", "10.0.0.3")
				var broken *host
				one := "10.0.0.2:80"
				if meshed {
					broken = w.pod("b", "10.0.0.2").host
					one += "=b"
				} else {
					broken = w.hostOutside("10.0.0.2")
				}
				var asked atomic.Int64
				broken.serveHTTP(80, func(rw http.ResponseWriter, r *http.Request) {
					asked.Add(1)
					_, _ = io.Copy(io.Discard, r.Body)
					bad(rw, r)
				})
				good.serveHTTP(80, func(rw http.ResponseWriter, r *http.Request) { _, _ = io.Copy(rw, r.Body) })
				w.careful("10.96.0.1:80", resilience.Policy{Retry: retrying(2)}, one, "10.0.0.3:80=c")
				w.careful("10.96.0.2:80", resilience.Policy{}, one, "10.0.0.3:80=c")
				c := a.client(true)
				body := bytes.Repeat([]byte("x"), 10_000)
				ask := func(vip string) int {
					t.Helper()
					resp, err := c.Post("http://"+vip+"/", "text/plain", bytes.NewReader(body))
					if err != nil {
						return 0 // a reset goes through to HTTP/2 clients
					}
					got, err := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					if resp.StatusCode == 200 && (err != nil || !bytes.Equal(got, body)) {
						t.Fatalf("%d bytes of %d came back, %v", len(got), len(body), err)
					}
					return resp.StatusCode
				}
				for i := 0; i < 50 || asked.Load() == 0; i++ {
					if st := ask("10.96.0.1"); st != 200 {
						t.Fatalf("with retries: %d", st)
					}
					if i == 5000 {
						t.Fatal("the failing endpoint was never asked: this proves nothing")
					}
				}
				n := float64(asked.Load())
				if got := a.metric("outbound_http_route_retry_requests_total", `parent_name="svc"`, `route_name="http"`); got != n {
					t.Errorf("%v retries counted, want %v", got, n)
				}
				if got := a.metric("outbound_http_route_retry_successes_total"); got < 1 || got > n {
					t.Errorf("%v successes counted, of %v", got, n)
				}
				for i := 0; ask("10.96.0.2") == 200; i++ {
					if i == 5000 {
						t.Fatal("nothing failed without retries")
					}
				}
			})
		}
	}
}

// An endpoint that accepts and says nothing costs a request one try's time.
func TestTriesThatHangGoElsewhere(t *testing.T) {
	w := newWorld(t)
	a, good := w.pod("a", "10.0.0.1"), w.pod("c", "10.0.0.3")
	silent := w.hostOutside("10.0.0.9")
	silent.serve(80, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	good.serveHTTP(80, whoami("c"))
	r := retrying(2)
	r.Timeout = 50 * time.Millisecond
	w.careful("10.96.0.1:80", resilience.Policy{Retry: r}, "10.0.0.9:80", "10.0.0.3:80=c")
	c := a.client(true)
	retried := func() float64 { return a.metric("outbound_http_route_retry_requests_total") }
	for i := 0; i < 20 || retried() == 0; i++ {
		if i == 5000 {
			t.Fatal("the silent endpoint was never asked: this proves nothing")
		}
		resp, err := c.Get("http://10.96.0.1/")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Fatalf("%s %q", resp.Status, resp.Header)
		}
	}
}

// Requests for a Service whose only endpoint has just left wait for the next one,
// a bounded number of them; and not for ever.
func TestRequestsWaitForAnEndpoint(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	b.serveHTTP(80, whoami("b"))
	none, one := []string{}, []string{"10.0.0.2:80=b"}
	w.careful("10.96.0.1:80", resilience.Policy{}, one...)
	const clients, each = 4, resilience.QueueLimit/4 + 10
	all := make([]*http.Client, clients)
	for i := range all {
		all[i] = a.client(true)
		resp, err := all[i].Get("http://10.96.0.1/")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	if n := a.metric("outbound_http_balancer_endpoints", `endpoint_state="ready"`, `parent_name="svc"`, `backend_name="svc"`); n != 1 {
		t.Errorf("%v endpoints counted, want 1", n)
	}
	burst := func() (statuses chan string) {
		statuses = make(chan string, clients*each)
		for _, c := range all {
			for range each {
				go func() {
					resp, err := c.Get("http://10.96.0.1/")
					if err != nil {
						statuses <- err.Error()
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
					statuses <- fmt.Sprint(resp.StatusCode, " ", resp.Header.Get(hop.FieldProxyError))
				}()
			}
		}
		return statuses
	}
	take := func(statuses chan string, n int, want string) {
		t.Helper()
		for range n {
			select {
			case got := <-statuses:
				if got != want {
					t.Fatalf("got %q, want %q", got, want)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("no answer, want %q", want)
			}
		}
	}
	const tooMany = clients*each - resilience.QueueLimit
	w.careful("10.96.0.1:80", resilience.Policy{}, none...)
	eventually(t, "nobody is there", func() bool { return a.metric("outbound_http_balancer_endpoints") == 0 })
	got := burst()
	take(got, tooMany, "503 too many requests waiting")
	if n := a.metric("outbound_http_balancer_queue_length"); n != resilience.QueueLimit {
		t.Errorf("%v requests in the queue", n)
	}
	w.careful("10.96.0.1:80", resilience.Policy{}, one...)
	take(got, resilience.QueueLimit, "200 ")

	w.careful("10.96.0.1:80", resilience.Policy{}, none...)
	eventually(t, "nobody is there", func() bool { return a.metric("outbound_http_balancer_endpoints") == 0 })
	got = burst()
	take(got, tooMany, "503 too many requests waiting")
	take(got, resilience.QueueLimit, "503 no endpoint") // after a while
	take(burst(), clients*each, "503 no endpoint")      // at once
	for name, want := range map[string]float64{"queue_length": 0, "queue_requests_total": 2 * resilience.QueueLimit, "queue_gate_shut_total": 1, "queue_gate_open_total": 1} {
		if n := a.metric("outbound_http_balancer_" + name); n != want {
			t.Errorf("%s is %v, want %v", name, n, want)
		}
	}
	w.careful("10.96.0.1:80", resilience.Policy{}, one...)
	eventually(t, "the gate opens", func() bool { return a.metric("outbound_http_balancer_queue_gate_open_total") == 2 })
}

// breaking is what `failure-accrual: consecutive` asks for, with short rests.
func breaking(n int, rest time.Duration) *resilience.Accrual {
	return &resilience.Accrual{Consecutive: n, Backoff: resilience.Backoff{Min: rest, Max: time.Minute}}
}

// get asks once and returns the status and the sidecar's own word.
func get(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return fmt.Sprint(resp.StatusCode, " ", resp.Header.Get(hop.FieldProxyError))
}

// An endpoint that fails gets a rest, and then one request at a time, until one
// goes well.
func TestABreakerKeepsRequestsFromAFailingEndpoint(t *testing.T) {
	w := newWorld(t)
	a, b, good := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2"), w.pod("c", "10.0.0.3")
	var asked atomic.Int64
	var well atomic.Bool
	b.serveHTTP(80, func(rw http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if !well.Load() {
			rw.WriteHeader(500)
		}
	})
	good.serveHTTP(80, whoami("c"))
	w.careful("10.96.0.1:80", resilience.Policy{Accrual: breaking(3, 100*time.Millisecond)}, "10.0.0.2:80=b", "10.0.0.3:80=c")
	c := a.client(true)
	endpoints := func(state string) float64 {
		return a.metric("outbound_http_balancer_endpoints", `endpoint_state="`+state+`"`)
	}
	for i := 0; endpoints("pending") == 0; i++ {
		if i > 5000 {
			t.Fatal("the breaker does not trip")
		}
		get(t, c, "http://10.96.0.1/")
	}
	if n := asked.Load(); n != 3 {
		t.Errorf("tripped after %d requests to it, want 3", n)
	}
	// While it rests nobody asks it; then one request does, and fails.
	shut := func() float64 { return a.metric("outbound_http_balancer_endpoint_shut_total") }
	opened := func() float64 { return a.metric("outbound_http_balancer_endpoint_open_total") }
	eventually(t, "a trial", func() bool { get(t, c, "http://10.96.0.1/"); return shut() == 2 })
	if n := asked.Load(); n != 4 || opened() != 0 {
		t.Errorf("a trial of %d requests; %v times open", n-3, opened())
	}
	well.Store(true)
	eventually(t, "well again", func() bool { get(t, c, "http://10.96.0.1/"); return opened() == 1 })
	if n := endpoints("ready"); n != 2 {
		t.Errorf("%v endpoints ready", n)
	}
}

// When all endpoints rest, requests fail at once, after a while, with words of
// their own; and when the rules are taken back, they do not.
func TestAllEndpointsRest(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	b.serveHTTP(80, func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(500) })
	w.careful("10.96.0.1:80", resilience.Policy{Accrual: breaking(3, time.Hour)}, "10.0.0.2:80=b")
	c := a.client(true)
	for range 3 {
		if got := get(t, c, "http://10.96.0.1/"); got != "500 " {
			t.Fatal(got)
		}
	}
	began := time.Now()
	if got := get(t, c, "http://10.96.0.1/"); got != "504 failfast" {
		t.Fatal(got)
	}
	if d := time.Since(began); d < resilience.Grace/2 {
		t.Errorf("did not wait: %v", d)
	}
	for _, c := range []*http.Client{c, a.client(false)} { // also on a new connection, for which there is no endpoint
		if got := get(t, c, "http://10.96.0.1/"); got != "504 failfast" {
			t.Fatal(got)
		}
	}
	if n := a.metric("outbound_http_balancer_queue_gate_shut_total"); n != 1 {
		t.Errorf("%v times failing fast", n)
	}
	// What is no request is told so, as there is nobody who could say anything else.
	conn := a.dial("10.96.0.1:80")
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, "\x00\x01\x02\r\n\r\n")
	if said, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(said), "HTTP/1.1 400 ") {
		t.Errorf("bytes that are no request: %q, %v", said, err)
	}
	w.careful("10.96.0.1:80", resilience.Policy{}, "10.0.0.2:80=b")
	eventually(t, "the rules are gone", func() bool { return get(t, c, "http://10.96.0.1/") == "500 " })
}

// A Service with very many endpoints costs a bounded number of connections, and
// not much memory.
func TestManyEndpoints(t *testing.T) {
	w := newWorld(t)
	a, out := w.pod("a", "10.0.0.1"), w.hostOutside("10.0.0.9")
	const n = 10_000
	var endpoints []string
	for port := uint16(1); port <= 600; port++ {
		out.serveRaw(port, func(c aio.Conn) {
			c.SetHandler(aioHTTP{})
		})
		endpoints = append(endpoints, fmt.Sprintf("10.0.0.9:%d", port))
	}
	w.service("10.96.0.1:80", endpoints...)
	c := a.client(false)
	for range 3000 {
		if got := get(t, c, "http://10.96.0.1/"); got != "200 " {
			t.Fatal(got)
		}
	}
	open := a.metric("tcp_open_connections", `peer="dst"`)
	t.Logf("%v connections to %d endpoints", open, len(endpoints))
	if open < 100 || open > 300 {
		t.Errorf("%v connections to %d endpoints", open, len(endpoints))
	}

	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	endpoints = nil
	for i := range n {
		endpoints = append(endpoints, fmt.Sprintf("10.0.0.9:%d", 1+i))
	}
	w.service("10.96.0.2:80", endpoints...)
	if conn, err := a.dialTo("10.96.0.2:80"); err == nil { // one of them is asked; most are not there
		_ = conn.Close()
	}
	mb := float64(heap()-before) / (1 << 20)
	t.Logf("%.1f MB for %d endpoints", mb, n)
	if mb > 20 {
		t.Errorf("%.1f MB for %d endpoints", mb, n)
	}
	runtime.KeepAlive(endpoints)
}

// An endpoint that turns requests down quickly does not get more of them.
func TestQuickRefusalsAttractNothing(t *testing.T) {
	for _, status := range []int{429, 503} {
		w := newWorld(t)
		a, b, good := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2"), w.pod("c", "10.0.0.3")
		var quick atomic.Int64
		b.serveHTTP(80, func(rw http.ResponseWriter, _ *http.Request) {
			quick.Add(1)
			rw.WriteHeader(status)
		})
		good.serveHTTP(80, func(http.ResponseWriter, *http.Request) { time.Sleep(3 * time.Millisecond) })
		w.service("10.96.0.1:80", "10.0.0.2:80=b", "10.0.0.3:80=c")
		c := a.client(true)
		const n = 300
		for range n {
			get(t, c, "http://10.96.0.1/")
		}
		if got := quick.Load(); got > n/4 {
			t.Errorf("%d: %d of %d requests went there", status, got, n)
		}
	}
}

// With penalties, an endpoint that has too much to do is avoided at its first word.
func TestPenaltiesKeepRequestsAway(t *testing.T) {
	w := newWorld(t)
	a, b, good := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2"), w.pod("c", "10.0.0.3")
	var asked atomic.Int64
	b.serveHTTP(80, func(rw http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		rw.Header().Set("Retry-After", "60")
		rw.WriteHeader(429)
	})
	good.serveHTTP(80, whoami("c"))
	w.careful("10.96.0.1:80", resilience.Policy{Penalty: &resilience.Penalty{Time: 5 * time.Second, MaxRetryAfter: time.Minute}}, "10.0.0.2:80=b", "10.0.0.3:80=c")
	c := a.client(true)
	for range 200 {
		get(t, c, "http://10.96.0.1/")
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("it was asked %d times, want once", n)
	}
}

// aioHTTP answers whatever comes, on a host's loop.
type aioHTTP struct{}

func (aioHTTP) Readable(c aio.Conn) {
	p := make([]byte, 4096)
	if n, err := c.Read(p); n == 0 && err != nil {
		if !errors.Is(err, aio.ErrWouldBlock) {
			c.Close()
		}
		return
	}
	_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
}
func (aioHTTP) Writable(aio.Conn)      {}
func (aioHTTP) Closed(aio.Conn, error) {}

// A request that is sent again is a request and a response at each endpoint that
// had it, with what that one answered (Linkerd's meaning of these metrics).
func TestEachAttemptIsCountedWhereItWent(t *testing.T) {
	w := newWorld(t)
	a, out := w.pod("a", "10.0.0.1"), w.hostOutside("10.0.0.9")
	var asked [3]atomic.Int64
	for i, answer := range []http.HandlerFunc{
		func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "ok") },
		func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(503) },
		func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		out.serveHTTP(uint16(8000+i), func(rw http.ResponseWriter, r *http.Request) {
			asked[i].Add(1)
			answer(rw, r)
		})
	}
	w.careful("10.96.0.1:80", resilience.Policy{Retry: retrying(5)}, "10.0.0.9:8000", "10.0.0.9:8001", "10.0.0.9:8002")
	c := a.client(true)
	const n = 60
	for range n {
		if got := get(t, c, "http://10.96.0.1/"); got != "200 " {
			t.Fatal(got)
		}
	}
	for i, answer := range []string{`status_code="200"`, `status_code="503"`, `error="h2(INTERNAL_ERROR)"`} {
		at := fmt.Sprintf(`target_addr="10.0.0.9:%d"`, 8000+i)
		eventually(t, "every response is counted", func() bool { return a.metric("response_total", `direction="outbound"`, at) == float64(asked[i].Load()) })
		requests, responses := a.metric("request_total", `direction="outbound"`, at), a.metric("response_total", `direction="outbound"`, at, answer)
		t.Logf("endpoint %d had %d, %v were counted, %v answers with %s", i, asked[i].Load(), requests, responses, answer)
		if requests != float64(asked[i].Load()) || responses != requests || requests == 0 {
			t.Errorf("endpoint %d had %d requests, %v were counted, and %v answers with %s", i, asked[i].Load(), requests, responses, answer)
		}
	}
	if asked[0].Load() != n {
		t.Errorf("the good endpoint had %d requests of %d", asked[0].Load(), n)
	}
	if in, out := a.metric("request_total"), a.metric("response_total"); in != out {
		t.Errorf("%v requests, %v responses", in, out)
	}
}
