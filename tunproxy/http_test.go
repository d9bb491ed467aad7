package tunproxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/tunproxy/authz"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
)

// serveHTTP runs a real HTTP server, HTTP/1 and HTTP/2 with prior knowledge.
func (h *host) serveHTTP(port uint16, f http.HandlerFunc) *http.Server {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: f, Protocols: p}
	l := h.listen(port)
	go func() { _ = s.Serve(l) }()
	h.w.t.Cleanup(func() { _ = s.Close() })
	return s
}

// client is a real HTTP client of one version.
func (h *host) client(http2 bool) *http.Client {
	p := new(http.Protocols)
	p.SetHTTP1(!http2)
	p.SetUnencryptedHTTP2(http2)
	tr := &http.Transport{
		Protocols: p, MaxIdleConnsPerHost: 100,
		DialContext: func(_ context.Context, _, addr string) (net.Conn, error) { return h.dialTo(addr) },
	}
	h.w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func whoami(name string) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		rw.Header().Set("X-Server", name)
		for k := range r.Header {
			if strings.HasPrefix(strings.ToLower(k), hop.FieldPrefix) {
				rw.Header().Add("X-Leaked", k)
			}
		}
		fmt.Fprintf(rw, "%s %s %s from %s %s host %s: %s", name, r.Method, r.URL.RequestURI(), host, r.Proto, r.Host, body)
	}
}

func TestHTTPCrossesTwoSidecars(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%v", http2), func(t *testing.T) {
			w := newWorld(t)
			a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
			out := w.hostOutside("10.0.0.9")
			w.service("10.96.0.1:80", "10.0.0.2:80=b")
			w.service("10.96.0.2:80", "10.0.0.9:80")
			b.serveHTTP(80, whoami("b"))
			out.serveHTTP(80, whoami("out"))
			proto := "HTTP/1.1"
			if http2 {
				proto = "HTTP/2.0"
			}
			saw := w.sniff()
			do := func(from *host, url, want string) {
				t.Helper()
				for range 3 {
					req, _ := http.NewRequest("POST", url, strings.NewReader("a-body-marker"))
					req.Header.Set(hop.FieldPrefix+"forged", "x")
					resp, err := from.client(http2).Do(req)
					if err != nil {
						t.Fatalf("%s: %v", url, err)
					}
					body, err := io.ReadAll(resp.Body)
					if err != nil || string(body) != want || resp.Header.Get("X-Leaked") != "" {
						t.Fatalf("%s: %d %q %v, leaked %q; want %q", url, resp.StatusCode, body, err, resp.Header["X-Leaked"], want)
					}
				}
			}
			do(a.host, "http://10.96.0.1/p?q=1", "b POST /p?q=1 from 10.0.0.1 "+proto+" host 10.96.0.1: a-body-marker")
			if saw("a-body-marker") {
				t.Error("the body crossed the wire in plain text")
			}
			do(a.host, "http://10.96.0.2/", "out POST / from 10.0.0.1 "+proto+" host 10.96.0.2: a-body-marker")
			do(out, "http://10.0.0.2/", "b POST / from 10.0.0.9 "+proto+" host 10.0.0.2: a-body-marker")
			eventually(t, "metrics", func() bool {
				return a.metric("response_total", `direction="outbound"`, `tls="true"`, `status_code="200"`, `classification="success"`) == 3 &&
					b.metric("response_total", `direction="inbound"`, `tls="true"`, `client_id="a.test.sa.cluster.local"`) == 3 &&
					b.metric("response_total", `direction="inbound"`, `tls="no_identity"`) == 3 &&
					a.metric("request_total", `direction="outbound"`) == 6
			})
			if n := a.metric("tcp_open_total", `direction="outbound"`, `peer="dst"`, `tls="true"`); n != 1 {
				t.Errorf("%v connections between the sidecars, want 1", n)
			}
		})
	}
}

func TestStreamsOfOneConnectionGoEverywhere(t *testing.T) {
	w := newWorld(t)
	a := w.pod("a", "10.0.0.1")
	var eps []string
	var counts [4]atomic.Int64
	for i := range 4 {
		p := w.pod(fmt.Sprintf("b%d", i), fmt.Sprintf("10.0.1.%d", i+1))
		p.serveHTTP(80, func(rw http.ResponseWriter, _ *http.Request) { counts[i].Add(1) })
		eps = append(eps, fmt.Sprintf("10.0.1.%d:80=b%d", i+1, i))
	}
	w.service("10.96.0.1:80", eps[:3]...)
	c := a.client(true)
	const n = 600
	hit := func(n int) {
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				for range n / 6 {
					resp, err := c.Get("http://10.96.0.1/")
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			})
		}
		wg.Wait()
	}
	hit(n)
	for i := range 3 {
		if got := counts[i].Load(); got < n/3*8/10 || got > n/3*12/10 {
			t.Errorf("endpoint %d got %d of %d", i, got, n)
		}
	}
	w.service("10.96.0.1:80", eps[1:]...) // one leaves, one arrives
	before := counts[0].Load()
	time.Sleep(50 * time.Millisecond)
	hit(n)
	if counts[0].Load() != before {
		t.Errorf("an endpoint that left got %d requests", counts[0].Load()-before)
	}
	if counts[3].Load() < n/3*8/10 {
		t.Errorf("an endpoint that arrived got %d of %d", counts[3].Load(), n)
	}
}

func TestKilledEndpoints(t *testing.T) {
	w := newWorld(t)
	a := w.pod("a", "10.0.0.1")
	var eps []string
	var apps []*http.Server
	for i := range 3 {
		p := w.pod(fmt.Sprintf("b%d", i), fmt.Sprintf("10.0.1.%d", i+1))
		apps = append(apps, p.serveHTTP(80, func(http.ResponseWriter, *http.Request) { time.Sleep(2 * time.Millisecond) }))
		eps = append(eps, fmt.Sprintf("10.0.1.%d:80=b%d", i+1, i))
	}
	w.service("10.96.0.1:80", eps...)
	c := a.client(true)
	stop := make(chan struct{})
	var ok, failed, slow atomic.Int64
	var wg sync.WaitGroup
	const workers = 8
	for range workers {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				began := time.Now()
				resp, err := c.Get("http://10.96.0.1/")
				if time.Since(began) > 5*time.Second {
					slow.Add(1)
				}
				switch {
				case err != nil || resp.StatusCode != 200:
					failed.Add(1)
				default:
					ok.Add(1)
				}
				if err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			}
		})
	}
	time.Sleep(300 * time.Millisecond)
	_ = apps[0].Close() // an app dies: its calls in flight fail, others find another
	time.Sleep(300 * time.Millisecond)
	appFailed := failed.Load()
	w.sever(netipAddrPort("10.0.1.2:1").Addr(), true) // a pod vanishes with its network
	time.Sleep(6 * time.Second)
	close(stop)
	wg.Wait()
	t.Logf("%d ok, %d failed at the app's death, %d in all, %d slower than 5 s", ok.Load(), appFailed, failed.Load(), slow.Load())
	if appFailed > workers {
		t.Errorf("%d requests failed when an app died, at most %d were there", appFailed, workers)
	}
	if n := failed.Load() - appFailed; n > workers {
		t.Errorf("%d requests failed when a pod vanished, at most %d were there", n, workers)
	}
	if slow.Load() > 0 {
		t.Errorf("%d requests took longer than 5 s", slow.Load())
	}
}

func TestSidecarErrors(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	srv := b.serveHTTP(80, whoami("b"))
	target := w.service("10.96.0.1:80", "10.0.0.2:80=b")
	c := a.client(true)
	get := func() (int, string) {
		t.Helper()
		resp, err := c.Get("http://10.96.0.1/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, resp.Header.Get(hop.FieldProxyError)
	}
	if st, _ := get(); st != 200 {
		t.Fatalf("status %d", st)
	}
	_ = srv.Close()
	if st, why := get(); st != 502 || why == "" {
		t.Errorf("app gone: %d %q", st, why)
	}
	s := *target.Load()
	s.Endpoints = nil
	target.Publish(&s)
	time.Sleep(20 * time.Millisecond)
	if st, why := get(); st != 503 || why != "no endpoint" {
		t.Errorf("no endpoint: %d %q", st, why)
	}
}

// A Service whose only endpoint restarts is waited for, a little.
func TestAnOnlyEndpointThatComesBack(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	b.serveHTTP(80, whoami("b"))
	b.serve(9000, echo)
	web := w.service("10.96.0.1:80", "10.0.0.2:80=b")
	raw := w.service("10.96.0.1:9000", "10.0.0.2:9000=b")
	c := a.client(true)
	get := func() int {
		resp, err := c.Get("http://10.96.0.1/")
		if err != nil {
			t.Error(err)
			return 0
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	connect := func() error {
		conn, err := a.dialTo("10.96.0.1:9000")
		if err != nil {
			return err
		}
		defer conn.Close()
		_, _ = conn.Write([]byte{0, 1})
		_, err = io.ReadFull(conn, make([]byte, 2))
		return err
	}
	if st, err := get(), connect(); st != 200 || err != nil {
		t.Fatal(st, err)
	}
	for _, target := range []*discover.Target{web, raw} {
		s := *target.Load()
		gone := s
		gone.Endpoints = nil
		target.Publish(&gone)
		time.AfterFunc(300*time.Millisecond, func() { target.Publish(&s) })
	}
	time.Sleep(20 * time.Millisecond)
	began := time.Now()
	var wg sync.WaitGroup
	wg.Go(func() {
		if st := get(); st != 200 {
			t.Errorf("a request: %d", st)
		}
	})
	wg.Go(func() {
		if err := connect(); err != nil {
			t.Errorf("a connect: %v", err)
		}
	})
	wg.Wait()
	if d := time.Since(began); d < 100*time.Millisecond || d > 2*time.Second {
		t.Errorf("waited %v", d)
	}
}

func TestPolicies(t *testing.T) {
	deny := &authz.Config{Default: authz.Deny, Probes: []authz.Probe{{Port: 80, Method: "GET", Path: "/healthz"}, {Port: 81}}}
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2", withPolicy(deny))
	out := w.hostOutside("10.0.0.9")
	b.serveHTTP(80, whoami("b"))
	b.serve(81, echo)
	b.serve(82, echo)
	status := func(from *host, path string) int {
		t.Helper()
		resp, err := from.client(false).Get("http://10.0.0.2" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	if st := status(out, "/healthz"); st != 200 {
		t.Errorf("a probe: %d", st)
	}
	if st := status(out, "/other"); st != 403 {
		t.Errorf("no probe: %d", st)
	}
	if st := status(a.host, "/other"); st != 403 {
		t.Errorf("a meshed client: %d", st)
	}
	if c, err := out.dialTo("10.0.0.2:82"); !errors.Is(err, aio.ErrRefused) {
		t.Errorf("a denied port: %v %v", c, err)
	}
	probe := out.dial("10.0.0.2:81") // connecting is all that a TCP probe does
	_ = probe.Close()
	time.Sleep(20 * time.Millisecond)
	probe = out.dial("10.0.0.2:81")
	if _, err := probe.Write([]byte{0, 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := probe.Read(make([]byte, 1)); err == nil {
		t.Error("bytes passed a port on which only a TCP probe is allowed")
	}
	if n := b.metric("inbound_tcp_authz_deny_total"); n != 1 {
		t.Errorf("%v connections denied, want 1: who only connected is a probe", n)
	}
	if n := b.metric("request_total"); n != 2 {
		t.Errorf("%v requests counted, want 2: probes do not count", n)
	}

	b.control.set(&authz.Config{Default: authz.AllAuthenticated})
	if st := status(a.host, "/other"); st != 200 {
		t.Errorf("a meshed client under all-authenticated: %d", st)
	}
	if st := status(out, "/other"); st != 403 {
		t.Errorf("an unmeshed client under all-authenticated: %d", st)
	}
	// A byte connection ends when policy no longer allows it.
	c := a.dial("10.0.0.2:82")
	_, _ = c.Write([]byte{0, 1})
	if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	b.control.set(&authz.Config{Default: authz.Deny})
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, aio.ErrReset) {
		t.Errorf("after the policy was tightened: %v", err)
	}
	if c, err := a.dialTo("10.0.0.2:82"); !errors.Is(err, aio.ErrRefused) {
		t.Errorf("under deny: %v %v", c, err)
	}
}

// A sidecar that was started again has packets before it has a policy. Nobody is
// let in, or refused, before somebody has said who may come.
func TestClientsWaitForTheFirstPolicy(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2", withPolicy(nil))
	out := w.hostOutside("10.0.0.9")
	b.serve(82, func(c net.Conn) { _, _ = io.Copy(c, c) })
	for _, p := range []struct {
		policy authz.Default
		want   error
	}{
		{authz.AllUnauthenticated, nil},
		{authz.Deny, aio.ErrRefused},
	} {
		b.control.set(nil)
		got := make(chan error, 2)
		for _, from := range []*host{a.host, out} {
			go func() {
				c, err := from.dialTo("10.0.0.2:82")
				if err == nil {
					_ = c.Close()
				}
				got <- err
			}()
		}
		select {
		case err := <-got:
			t.Fatalf("somebody was answered without a policy: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
		b.control.set(&authz.Config{Default: p.policy})
		for range cap(got) {
			if err := <-got; !errors.Is(err, p.want) {
				t.Errorf("under %v: %v, want %v", p.policy, err, p.want)
			}
		}
	}
}

func TestUpgradeCrossesTwoSidecars(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:80", "10.0.0.2:80=b")
	b.serveHTTP(80, func(rw http.ResponseWriter, r *http.Request) {
		c, buf, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
		_, _ = io.Copy(c, buf)
	})
	c := a.dial("10.96.0.1:80")
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: b\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
	head := make([]byte, 0, 512)
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		var b [1]byte
		if _, err := c.Read(b[:]); err != nil {
			t.Fatalf("after %q: %v", head, err)
		}
		head = append(head, b[0])
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
		rest, _ := io.ReadAll(io.LimitReader(c, 68))
		t.Fatalf("head %q %q", head, rest)
	}
	_, _ = io.WriteString(c, "\x00raw bytes")
	got := make([]byte, 10)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "\x00raw bytes" {
		t.Fatalf("%q %v", got, err)
	}
	_ = c.(aio.CloseWriter).CloseWrite()
	if rest, err := io.ReadAll(c); err != nil || len(rest) != 0 {
		t.Fatalf("end: %q %v", rest, err)
	}
}
