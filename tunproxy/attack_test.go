package tunproxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/test/siege/attack"
	"github.com/tunmesh/tunmesh/tunproxy"
	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
)

// attacker speaks frames on a connection of its own.
type attacker struct {
	net.Conn
	*attack.Frames
}

func (h *host) attack(dst string, settings ...frame.Setting) (*attacker, error) {
	c, err := h.dialTo(dst)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return &attacker{Conn: c, Frames: attack.Begin(settings...)}, nil
}

// flush sends what was made so far.
func (a *attacker) flush() error {
	_, err := a.Write(a.Bytes)
	a.Bytes = a.Bytes[:0]
	return err
}

// outlast sends what was made, and reads until the sidecar has had enough, or
// for as long as that.
func (a *attacker) outlast(d time.Duration) {
	go func() { _ = a.flush() }()
	_ = a.SetReadDeadline(time.Now().Add(d))
	_, _ = io.Copy(io.Discard, a)
	_ = a.Close()
}

// quiet is somebody else, who asks for something small over and over.
type quiet struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func (h *host) quiet(dst string) *quiet {
	c := h.dial(dst)
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	return &quiet{t: h.w.t, c: c, r: bufio.NewReader(c)}
}

// ask is how long n answers took, each.
func (q *quiet) ask(n int) []time.Duration {
	q.t.Helper()
	var took []time.Duration
	for range n {
		began := time.Now()
		if _, err := io.WriteString(q.c, "GET /small HTTP/1.1\r\nHost: b\r\n\r\n"); err != nil {
			q.t.Fatal(err)
		}
		resp, err := http.ReadResponse(q.r, nil)
		if err != nil {
			q.t.Fatalf("somebody else was not served: %v", err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != 200 {
			q.t.Fatalf("somebody else was answered with %d", resp.StatusCode)
		}
		took = append(took, time.Since(began))
		time.Sleep(500 * time.Microsecond)
	}
	return took
}

func p99(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)*99/100]
}

// hasty: no time for many samples, or figures that mean nothing.
func hasty() bool { return raced || testing.Short() }

// live is the heap that is in use, after a collection.
func live() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

const mib = 1 << 20

// sizes answers with as many bytes as the path says.
func sizes() http.HandlerFunc {
	large := make([]byte, mib)
	return func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/large":
			_, _ = rw.Write(large)
		case "/":
			_, _ = io.Copy(io.Discard, r.Body)
		default:
			_, _ = io.WriteString(rw, "ok")
		}
	}
}

// TestFloodsFromAMeshedPod: an app that floods is cut off by its own sidecar, and
// the clients in other pods do not notice.
func TestFloodsFromAMeshedPod(t *testing.T) {
	unraced(t)
	w := newWorld(t)
	a, b, c := w.pod("a", "10.0.0.1"), w.pod("b", besiegedIP), w.pod("c", "10.0.0.3")
	w.service("10.96.0.1:80", flooded+"=b")
	w.service("10.96.0.2:90", smallWeb+"=b")
	s := &siege{T: t, w: w, b: b, out: a.host, cutsOff: a, staying: 8, own: &ownTime{client: c.addr}}
	s.own.watch(b)
	b.serveRaw(90, func(c aio.Conn) { c.SetHandler(&answerer{}) })
	s.out.humble()
	s.asker = newAsker(t, c.host, "10.96.0.2:90")
	s.asker.ask(50)
	flood := attack.Replay{Bytes: attack.Resets(1200), Every: 20 * time.Millisecond, AtOnce: 8, Gives: 5 * time.Second}
	s.withstand(onslaught{name: "rapid reset from a meshed pod", metric: "http2_broken_total", labels: []string{`reason="resets"`}, attack: func(s *siege) func() {
		var n replayed
		return replay{dst: "10.96.0.1:80", Replay: flood}.start(s.out, &n)
	}})
}

// tuned makes the times of slow peers short.
func tuned(c *tunproxy.Config) {
	c.Limits.Head = 300 * time.Millisecond
	c.Limits.SlowBody = 300 * time.Millisecond
	c.Limits.SlowReader = 300 * time.Millisecond
	c.Limits.MinRate = 100_000
}

// ends reports whether the far end gives up on c within a while.
func ends(c net.Conn) (answer string, over bool) {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	b, err := io.ReadAll(c)
	var ne net.Error
	if e, ok := err.(net.Error); ok {
		ne = e
	}
	return string(b), ne == nil || !ne.Timeout()
}

// TestSlowClients: who lets others wait, in any part of a message, is given up;
// who has promised nothing may rest.
func TestSlowClients(t *testing.T) {
	w := newWorld(t)
	b := w.pod("b", "10.0.0.2", withTune(tuned))
	out := w.hostOutside("10.0.0.9")
	resting := make(chan struct{})
	t.Cleanup(func() { close(resting) })
	b.serveHTTP(80, func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/rest":
			rw.WriteHeader(200)
			_ = http.NewResponseController(rw).Flush()
			<-resting
		case "/huge":
			for range 64 {
				if _, err := rw.Write(make([]byte, mib)); err != nil {
					return
				}
			}
		default:
			_, _ = io.Copy(io.Discard, r.Body)
		}
	})
	b.serve(90, echo)
	slow := func(what string) float64 { return b.metric("slow_peers_total", `what="`+what+`"`) }
	drip := func(c net.Conn) {
		go func() {
			for {
				if _, err := c.Write([]byte("x")); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}()
	}
	http1 := func(text string) net.Conn {
		c := out.dial("10.0.0.2:80")
		_, _ = io.WriteString(c, text)
		return c
	}
	http2 := func(fill func(a *attacker), settings ...frame.Setting) *attacker {
		a, err := out.attack("10.0.0.2:80", settings...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = a.Close() })
		fill(a)
		if err := a.flush(); err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, c := range []struct {
		name, what string
		begin      func() net.Conn
		answer     string
	}{
		{"HTTP/1 head", "head", func() net.Conn {
			c := http1("GET / HTTP/1.1\r\nHost: b\r\nX-Slow: ")
			drip(c)
			return c
		}, "HTTP/1.1 408 "},
		{"HTTP/1 body", "body", func() net.Conn {
			c := http1("POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 100000\r\n\r\n")
			drip(c)
			return c
		}, "HTTP/1.1 408 "},
		{"HTTP/1 chunk", "body", func() net.Conn {
			c := http1("POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n")
			drip(c)
			return c
		}, "HTTP/1.1 408 "},
		{"HTTP/2 head", "head", func() net.Conn {
			a := http2(func(a *attacker) { a.Headers(true, "GET"); a.Bytes = a.Bytes[:len(a.Bytes)-3] })
			return a
		}, ""},
		{"HTTP/2 frame", "head", func() net.Conn {
			a := http2(func(a *attacker) {
				id := a.Headers(false, "POST")
				a.Bytes = frame.AppendData(a.Bytes, id, make([]byte, 10_000), false)
				a.Bytes = a.Bytes[:len(a.Bytes)-9000]
			})
			drip(a)
			return a
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := slow(c.what)
			answer, over := ends(c.begin())
			if !over || !strings.HasPrefix(answer, c.answer) {
				t.Errorf("over %v after %q", over, answer)
			}
			if n := slow(c.what) - before; n != 1 {
				t.Errorf("%v counted as slow in %s", n, c.what)
			}
		})
	}
	t.Run("HTTP/2 body", func(t *testing.T) {
		before := slow("body")
		a := http2(func(a *attacker) { a.Headers(false, "POST", "content-length", "100000") })
		go func() {
			for {
				a.Bytes = frame.AppendData(a.Bytes[:0], 1, []byte("x"), false)
				if _, err := a.Write(a.Bytes); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}()
		eventually(t, "the stream is given up", func() bool { return slow("body") == before+1 })
	})
	t.Run("HTTP/1 reading", func(t *testing.T) {
		before := slow("reading")
		http1("GET /huge HTTP/1.1\r\nHost: b\r\n\r\n")
		eventually(t, "the connection is given up", func() bool { return slow("reading") == before+1 })
	})
	t.Run("HTTP/2 reading", func(t *testing.T) {
		before := slow("reading")
		http2(func(a *attacker) { a.Headers(true, "GET", ":path", "/huge") }, frame.Setting{ID: frame.InitialWindowSize, Value: 0})
		eventually(t, "the stream is given up", func() bool { return slow("reading") == before+1 })
	})
	t.Run("who may rest", func(t *testing.T) {
		before := slow("head") + slow("body") + slow("reading")
		idle := http1("")
		chunks := http1("POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
		stream := http2(func(a *attacker) {
			a.Headers(false, "POST", ":path", "/rest", "content-type", "application/grpc")
			a.Headers(true, "GET", ":path", "/huge", "content-type", "application/grpc")
		}, frame.Setting{ID: frame.InitialWindowSize, Value: 100})
		pipe := out.dial("10.0.0.2:90")
		_, _ = pipe.Write([]byte{0})
		time.Sleep(1500 * time.Millisecond)
		if n := slow("head") + slow("body") + slow("reading") - before; n != 0 {
			t.Errorf("%v given up", n)
		}
		_, _ = io.WriteString(idle, "GET / HTTP/1.1\r\nHost: b\r\n\r\n")
		_, _ = io.WriteString(chunks, "0\r\n\r\n")
		for name, c := range map[string]net.Conn{"idle": idle, "between chunks": chunks} {
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || resp.StatusCode != 200 {
				t.Errorf("%s: %v %v", name, resp, err)
			}
		}
		stream.Bytes = frame.AppendPing(stream.Bytes, false, 7)
		if err := stream.flush(); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(pipe, make([]byte, 1)); err != nil {
			t.Error(err)
		}
	})
}

// TestConnectionsOfOneClient: a client that opens all it can get leaves as many
// to others, is refused, and finds room again when it has closed.
func TestConnectionsOfOneClient(t *testing.T) {
	const most = 100
	w := newWorld(t)
	b := w.pod("b", "10.0.0.2", withTune(func(c *tunproxy.Config) { c.Limits.Connections = most }))
	b.serveHTTP(80, sizes())
	greedy := func(h *host) (conns []net.Conn) {
		for len(conns) <= most {
			c, err := h.dialTo("10.0.0.2:80")
			if err != nil {
				break
			}
			t.Cleanup(func() { _ = c.Close() })
			conns = append(conns, c)
		}
		return conns
	}
	var got []int
	var first []net.Conn
	for i := range 4 {
		conns := greedy(w.hostOutside(fmt.Sprintf("10.0.0.%d", 10+i)))
		if i == 0 {
			first = conns
		}
		got = append(got, len(conns))
	}
	w.hostOutside("10.0.0.9").quiet("10.0.0.2:80").ask(3)
	if want := []int{50, 25, 13, 6}; !slices.Equal(got, want) {
		t.Errorf("greedy clients got %v connections, want %v", got, want)
	}
	if n := b.metric("netstack_drops_total", `reason="client_limit"`, `side="wire"`); n != 4 {
		t.Errorf("%v counted, want 4", n)
	}
	for _, c := range first {
		_ = c.Close()
	}
	late := w.hostOutside("10.0.0.30")
	eventually(t, "places are free again", func() bool {
		c, err := late.dialTo("10.0.0.2:80")
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
			first = first[1:]
		}
		return len(first) < 25
	})
}

// TestHeldBytes: clients that ask for much and read nothing, or send much that
// the server does not take, make the sidecar hold no more than its bounds;
// others are served, and what was held is given back.
func TestHeldBytes(t *testing.T) {
	const limit, hosts = 4 * mib, 4
	// Responses that wait for windows of 0.
	windows := func(h *host) (net.Conn, error) {
		a, err := h.attack("10.0.0.2:80", frame.Setting{ID: frame.InitialWindowSize, Value: 0})
		if err != nil {
			return nil, err
		}
		for range 40 {
			a.Headers(true, "GET", ":path", "/large")
		}
		return a, a.flush()
	}
	// Responses that wait for the client's kernel, and bodies for the server.
	kernels := func(h *host) (net.Conn, error) {
		c := h.dial("10.0.0.2:80")
		_, err := io.WriteString(c, "GET /large HTTP/1.1\r\nHost: b\r\n\r\n")
		return c, err
	}
	body := make([]byte, mib)
	uploads := func(h *host) (net.Conn, error) {
		c := h.dial("10.0.0.2:80")
		go func() {
			_, _ = fmt.Fprintf(c, "POST /stuck HTTP/1.1\r\nHost: b\r\nContent-Length: %d\r\n\r\n", len(body))
			_, _ = c.Write(body)
		}()
		return c, nil
	}
	for _, c := range []struct {
		layer  string
		limits tunproxy.Limits
		greedy []func(h *host) (net.Conn, error)
		slack  float64 // what each may hold in any case
		line   int64   // of the heap: of attackers and servers, too
	}{
		{"http", tunproxy.Limits{HTTPBytes: limit}, []func(h *host) (net.Conn, error){windows}, 1 * mib, 40 * mib},
		{"tcp", tunproxy.Limits{TCPBytes: limit}, slices.Concat(slices.Repeat([]func(h *host) (net.Conn, error){kernels}, 10), slices.Repeat([]func(h *host) (net.Conn, error){uploads}, 10)), 3 * mib, 80 * mib},
	} {
		t.Run(c.layer, func(t *testing.T) {
			w := newWorld(t)
			b := w.pod("b", "10.0.0.2", withTune(func(p *tunproxy.Config) { p.Limits, p.Grace = c.limits, time.Second }))
			block, serve := make(chan struct{}), sizes()
			b.serveHTTP(80, func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/stuck" {
					<-block
					return
				}
				serve(rw, r)
			})
			release := sync.OnceFunc(func() { close(block) })
			defer release()
			q := w.hostOutside("10.0.0.8").quiet("10.0.0.2:80")
			q.ask(50)
			before, base := p99(q.ask(50)), live()
			var conns []net.Conn
			for i := range hosts {
				h := w.hostOutside(fmt.Sprintf("10.0.1.%d", i))
				for _, f := range c.greedy {
					k, err := f(h)
					if err != nil {
						t.Fatal(err)
					}
					conns = append(conns, k)
				}
			}
			held := func() float64 { return b.metric("held_bytes", `layer="`+c.layer+`"`) }
			eventually(t, "the bound is met", func() bool { return b.metric("held_limit_total", `layer="`+c.layer+`"`) > 0 })
			top := 0.0
			var during []time.Duration
			for range 5 {
				during = append(during, q.ask(20)...)
				top = max(top, held())
			}
			grown := live() - base
			t.Logf("held at most %.1f of %d MiB; the heap grew by %d MiB; p99 of others %v before and %v now",
				top/mib, limit/mib, grown/mib, before, p99(during))
			if top > limit+c.slack {
				t.Errorf("%v bytes were held, the bound is %d", top, limit)
			}
			if grown > c.line && !hasty() {
				t.Errorf("the heap grew by %d MiB, the line is %d", grown/mib, c.line/mib)
			}
			release()
			for _, k := range conns {
				_ = k.Close()
			}
			eventually(t, "everything is given back", func() bool { return held() < 64<<10 })
			q.ask(3)
		})
	}
}

// TestTenThousandStreams: ten thousand requests of one pod at once, all of which
// wait, take some KB each; others go past them, and all are answered in the end.
func TestTenThousandStreams(t *testing.T) {
	n := 10_000
	if testing.Short() || raced {
		n = 1000
	}
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:80", "10.0.0.2:80=b")
	var waiting atomic.Int64
	open := make(chan struct{})
	srv := b.serveHTTP(80, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			waiting.Add(1)
			<-open
		}
	})
	srv.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 20_000}
	q := a.quiet("10.96.0.1:80")
	q.ask(50)
	base := live()
	var conns []*attacker
	for left := n; left > 0; {
		x, err := a.attack("10.96.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = x.Close() })
		for range min(left, 1000) {
			x.Headers(true, "GET")
			left--
		}
		conns = append(conns, x)
		if err := x.flush(); err != nil {
			t.Fatal(err)
		}
		// While connections to the server are made, no more than 4,096 wait for one.
		eventually(t, "the requests wait in the server", func() bool { return waiting.Load() == int64(n-left) })
	}
	each := (live() - base) / int64(n)
	t.Logf("%d bytes of heap for each request: client, two sidecars and the server's goroutine", each)
	if each > 32<<10 {
		t.Errorf("a request takes %d bytes", each)
	}
	q.ask(50)
	close(open)
	for i, x := range conns {
		want := min(n-i*1000, 1000)
		if got := x.answers(t, want); got != want {
			t.Errorf("connection %d: %d of %d answers", i, got, want)
		}
	}
	if held := a.metric("held_bytes", `layer="http"`); held != 0 {
		t.Errorf("%v bytes are held after everything", held)
	}
}

// answers reads until that many streams have ended.
func (a *attacker) answers(t *testing.T, want int) (got int) {
	var b []byte
	buf := make([]byte, 32<<10)
	for got < want {
		n, err := a.Read(buf)
		b = append(b, buf[:n]...)
		for {
			h, _, rest, ok, ferr := frame.Split(b, frame.MinMaxSize)
			if ferr != nil {
				t.Fatal(ferr)
			}
			if !ok {
				break
			}
			if b = rest; (h.Type == frame.Headers || h.Type == frame.Data) && h.Flags.Has(frame.EndStream) {
				got++
			}
		}
		if err != nil {
			return got
		}
	}
	return got
}

// TestManyConnectionsOverTime: a hundred thousand connections, one after the
// other and a few at once, leave nothing behind.
func TestManyConnectionsOverTime(t *testing.T) {
	n, atOnce := 100_000, 64
	if hasty() {
		n, atOnce = 2000, 16
	}
	w := newWorld(t)
	b := w.pod("b", "10.0.0.2")
	b.serveRaw(80, func(c aio.Conn) { c.SetHandler(&answerer{}) })
	out := w.hostOutside("10.0.0.9")
	loop := out.stack.Loops()[0]
	run := func(n int) {
		t.Helper()
		done := make(chan int, 1)
		c := &caller{loop: loop, left: n, want: n, done: done}
		loop.Post(func() {
			for range atOnce {
				c.next()
			}
		})
		select {
		case failed := <-done:
			if failed > 0 {
				t.Fatalf("%d of %d connections failed", failed, n)
			}
		case <-time.After(4 * time.Minute):
			t.Fatalf("not done after four minutes")
		}
	}
	settled := func() bool {
		return b.metric("tcp_open_connections") == 0 && b.metric("held_bytes") == 0
	}
	run(n / 20)
	eventually(t, "the first have gone", settled)
	// What leaks grows every time; the tests before this one may leave something
	// that changes once.
	for try := 1; ; try++ {
		goroutines, base := runtime.NumGoroutine(), live()
		began := time.Now()
		run(n)
		eventually(t, "all have gone", settled)
		grown, more := live()-base, runtime.NumGoroutine()-goroutines
		t.Logf("%d connections in %v; the heap grew by %d KiB, goroutines by %d", n, time.Since(began).Round(time.Millisecond), grown>>10, more)
		if grown <= 4*mib && more <= 5 {
			return
		}
		if try == 3 {
			t.Fatalf("each time the heap or goroutines grew, at last by %d KiB and %d", grown>>10, more)
		}
	}
}

const helloRequest, helloAnswer = "GET / HTTP/1.1\r\nHost: b\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// answerer is a server of tiny responses on the host's loop.
type answerer struct{ buf [256]byte }

func (s *answerer) Readable(c aio.Conn) {
	for {
		n, err := c.Read(s.buf[:])
		if n > 0 {
			_, _ = c.Write([]byte(helloAnswer))
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				c.Close()
			}
			return
		}
	}
}
func (*answerer) Writable(aio.Conn)      {}
func (*answerer) Closed(aio.Conn, error) {}

// caller makes one connection after the other on the host's loop, asks on each,
// and closes it.
type caller struct {
	loop               aio.Loop
	left, want, failed int
	done               chan<- int
}

func (c *caller) next() {
	if c.left == 0 {
		return
	}
	c.left--
	c.loop.Dial(aio.DialRequest{Side: aio.Wire, Src: netipAddrPort("10.0.0.9:0"), Dst: netipAddrPort("10.0.0.2:80"), Timeout: 20 * time.Second, Done: func(k aio.Conn, err error) {
		if err != nil {
			c.over(false)
			return
		}
		k.SetHandler(&call{c: c})
		_, _ = k.Write([]byte(helloRequest))
	}})
}

func (c *caller) over(ok bool) {
	if !ok {
		c.failed++
	}
	if c.want--; c.want == 0 {
		c.done <- c.failed
		return
	}
	c.next()
}

// call is one of them.
type call struct {
	c   *caller
	got int
	buf [256]byte
}

func (k *call) Readable(c aio.Conn) {
	n, err := c.Read(k.buf[:])
	if k.got += n; k.got >= len(helloAnswer) {
		c.Close()
		k.c.over(string(k.buf[:15]) == helloAnswer[:15])
	} else if err != nil && !errors.Is(err, aio.ErrWouldBlock) {
		c.Reset()
		k.c.over(false)
	}
}
func (*call) Writable(aio.Conn)        {}
func (k *call) Closed(aio.Conn, error) { k.c.over(false) }
