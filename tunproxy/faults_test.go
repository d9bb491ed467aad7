package tunproxy_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/netstack/tun"
	"github.com/tunmesh/tunmesh/tunproxy"
	"github.com/tunmesh/tunmesh/tunproxy/authz"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
)

// TestMain finds goroutines that outlive the sidecars that started them. A
// world has a handful of event loops, each of which parks in the kernel with
// its processor, as the one loop of a sidecar may; there are processors for all.
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(32)
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}

// A meshed endpoint that can't prove the identity that the control plane named
// is never spoken to, in any way.
func TestPeersThatProveNothing(t *testing.T) {
	other := mtlstest.NewCA(t)
	good := func(w *world, l mtlstest.Leaf) *mtls.Certificate { return w.ca.Issue(t, l) }
	b := id("b").String()
	for name, cert := range map[string]func(w *world) *mtls.Certificate{
		"wrong identity": func(w *world) *mtls.Certificate {
			return good(w, mtlstest.Leaf{URIs: []string{id("mallory").String()}})
		},
		"other trust anchor": func(*world) *mtls.Certificate { return other.Issue(t, mtlstest.Leaf{URIs: []string{b}}) },
		"other trust domain": func(w *world) *mtls.Certificate {
			return good(w, mtlstest.Leaf{URIs: []string{strings.Replace(b, "cluster.local", "evil.local", 1)}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := w.pod("a", "10.0.0.1")
			peer := w.pod("b", "10.0.0.2")
			c := cert(w)
			// The peer itself believes in what it has.
			store := [][]byte{w.ca.Cert.Raw, other.Cert.Raw}
			if err := peer.store.Update(store, c); err != nil {
				t.Fatal(err)
			}
			w.service("10.96.0.1:9000", "10.0.0.2:9000=b")
			w.service("10.96.0.1:80", "10.0.0.2:80=b")
			reached := make(chan struct{}, 10)
			for _, port := range []uint16{80, 9000} {
				peer.serve(port, func(c net.Conn) {
					if n, _ := c.Read(make([]byte, 1)); n > 0 {
						reached <- struct{}{}
					}
				})
			}
			saw := w.sniff()
			conn := a.dial("10.96.0.1:9000")
			_, _ = conn.Write([]byte("\x00secret-marker"))
			if _, err := io.ReadAll(conn); !errors.Is(err, aio.ErrReset) {
				t.Errorf("bytes: %v, want a reset", err)
			}
			resp, err := a.client(false).Post("http://10.96.0.1/", "text/plain", strings.NewReader("secret-marker"))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != 502 || resp.Header.Get(hop.FieldProxyError) == "" {
				t.Errorf("http: %d %q", resp.StatusCode, resp.Header)
			}
			if saw("secret-marker") {
				t.Error("fell back to plain text")
			}
			select {
			case <-reached:
				t.Error("the app was reached")
			default:
			}
		})
	}
}

// What does not finish in time is aborted: a sidecar never outlives its grace.
func TestGraceIsBounded(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2", withTune(func(c *tunproxy.Config) { c.Grace = 300 * time.Millisecond }))
	b.serve(9000, echo)
	c := a.dial("10.0.0.2:9000")
	_, _ = c.Write([]byte{0, 1})
	if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	b.proxy.Shutdown()
	select {
	case err := <-b.done:
		b.done <- err
	case <-time.After(10 * time.Second):
		t.Fatal("still there")
	}
	if d := time.Since(began); d < 250*time.Millisecond || d > 5*time.Second {
		t.Errorf("ended after %v", d)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection outlived its sidecar")
	}
}

// A TUN that is gone ends the sidecar, with an error.
func TestABrokenDeviceEndsTheSidecar(t *testing.T) {
	w := newWorld(t)
	b := w.pod("b", "10.0.0.2")
	// Not Close: epoll says nothing of a descriptor that was closed, a TUN that
	// was deleted wakes its reader.
	b.wireEnd.SetFault(tun.ErrGone)
	select {
	case err := <-b.done:
		if err == nil || !strings.Contains(err.Error(), "run the sidecar") {
			t.Errorf("ended with %v", err)
		}
		b.done <- nil
	case <-time.After(10 * time.Second):
		t.Fatal("goes on without its device")
	}
}

// One bad endpoint among good ones costs nobody a request.
func TestABadPeerIsAvoided(t *testing.T) {
	w := newWorld(t)
	a := w.pod("a", "10.0.0.1")
	bad, okay := w.pod("b", "10.0.0.2"), w.pod("c", "10.0.0.3")
	if err := bad.store.Update(nil, w.ca.Issue(t, mtlstest.Leaf{URIs: []string{id("mallory").String()}})); err != nil {
		t.Fatal(err)
	}
	w.service("10.96.0.1:80", "10.0.0.2:80=b", "10.0.0.3:80=c")
	w.service("10.96.0.1:9000", "10.0.0.2:9000=b", "10.0.0.3:9000=c")
	for _, p := range []*pod{bad, okay} {
		p.serveHTTP(80, whoami(p.name))
		p.serve(9000, echo)
	}
	c := a.client(true)
	for range 20 {
		resp, err := c.Get("http://10.96.0.1/")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 || !strings.HasPrefix(string(body), "c ") {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
	}
	for range 10 {
		conn := a.dial("10.96.0.1:9000")
		_, _ = conn.Write([]byte{0, 1})
		if _, err := io.ReadFull(conn, make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	}
}

// A client that claims to be a sidecar and proves nothing reaches nobody.
func TestForgedHops(t *testing.T) {
	w := newWorld(t)
	b := w.pod("b", "10.0.0.2", withPolicy(&authz.Config{Default: authz.AllUnauthenticated}))
	out := w.hostOutside("10.0.0.9")
	reached := make(chan struct{}, 10)
	b.serve(9000, func(c net.Conn) {
		if n, _ := c.Read(make([]byte, 1)); n > 0 {
			reached <- struct{}{}
		}
	})
	other := mtlstest.NewCA(t)
	stolen := other.Issue(t, mtlstest.Leaf{URIs: []string{id("a").String()}})
	expired := w.ca.Issue(t, mtlstest.Leaf{URIs: []string{id("a").String()}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
	own := func(c *mtls.Certificate) []tls.Certificate {
		return []tls.Certificate{{Certificate: c.Chain, PrivateKey: c.Key}}
	}
	for name, cfg := range map[string]*tls.Config{
		"no certificate":     {NextProtos: []string{hop.ALPNBytes}},
		"not ours":           {NextProtos: []string{hop.ALPNBytes}, Certificates: own(stolen)},
		"expired":            {NextProtos: []string{hop.ALPNBytes}, Certificates: own(expired)},
		"unknown version":    {NextProtos: []string{"tunmesh-tcp/99"}, Certificates: own(stolen)},
		"among other offers": {NextProtos: []string{"h2", "tunmesh-tcp/99"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.InsecureSkipVerify = true
			cfg.ServerName = id("b").ServerName()
			raw := out.dial("10.0.0.2:9000")
			c := tls.Client(raw, cfg)
			_ = c.Handshake()
			_, _ = c.Write([]byte("forged"))
			if n, err := c.Read(make([]byte, 1)); err == nil || n > 0 {
				t.Errorf("read %d, %v", n, err)
			}
			select {
			case <-reached:
				t.Error("the app was reached")
			case <-time.After(20 * time.Millisecond):
			}
		})
	}
	if n := b.metric("tls_handshake_failures_total", `direction="inbound"`); n != 5 {
		t.Errorf("%v failures counted, want 5", n)
	}
	// The app's own TLS passes, whatever else it offers.
	c := tls.Client(out.dial("10.0.0.2:9000"), &tls.Config{InsecureSkipVerify: true, ServerName: "app.example", NextProtos: []string{"h2"}})
	go func() { _ = c.Handshake() }()
	select {
	case <-reached:
	case <-time.After(5 * time.Second):
		t.Error("the app's own TLS did not pass")
	}
}

// A silent client that speaks HTTP after all is proxied as HTTP.
func TestALateHTTPClientIsDetected(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:80", "10.0.0.2:80=b")
	b.serveHTTP(80, whoami("b"))
	c := a.dial("10.96.0.1:80")
	time.Sleep(100 * time.Millisecond)
	_, _ = io.WriteString(c, "GET /late HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n")
	all, err := io.ReadAll(c)
	if err != nil || !strings.Contains(string(all), "b GET /late") {
		t.Fatalf("%q %v", all, err)
	}
	eventually(t, "it is counted as a request", func() bool {
		return a.metric("response_total", `direction="outbound"`, `tls="true"`) == 1
	})
}

// What may be the beginning of a request and is not goes to the server soon; and
// a request line that comes in drops is a request, to the app one and the same.
func TestPausesInsideOfARequestLine(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	out := w.hostOutside("10.0.0.9")
	w.service("10.96.0.1:80", "10.0.0.2:80=b")
	w.service("10.96.0.1:7", "10.0.0.2:7=b")
	w.service("10.96.0.2:80", "10.0.0.9:80")
	w.service("10.96.0.2:7", "10.0.0.9:7")
	echo := func(c net.Conn) { _, _ = io.Copy(c, c) }
	for _, h := range []*host{b.host, out} {
		h.serveHTTP(80, whoami("b"))
		h.serve(7, echo)
	}
	for name, dial := range map[string]func(port string) net.Conn{
		"meshed to meshed":  func(port string) net.Conn { return a.dial("10.96.0.1:" + port) },
		"meshed to plain":   func(port string) net.Conn { return a.dial("10.96.0.2:" + port) },
		"outside to meshed": func(port string) net.Conn { return out.dial("10.0.0.2:" + port) },
	} {
		t.Run(name, func(t *testing.T) {
			c := dial("7")
			for _, word := range []string{"abc", "def", "\n", "GET / HTTP/1.1\r\n"} {
				_, _ = io.WriteString(c, word)
				got := make([]byte, len(word))
				if _, err := io.ReadFull(c, got); err != nil || string(got) != word {
					t.Fatalf("%q echoed as %q: %v", word, got, err)
				}
			}
			c = dial("80")
			for _, drop := range []string{"G", "ET /s", "low HT", "TP/", "1.1\r\nHost: b\r\nConn", "ection: close\r\n\r\n"} {
				_, _ = io.WriteString(c, drop)
				time.Sleep(50 * time.Millisecond)
			}
			all, err := io.ReadAll(c)
			if err != nil || strings.Count(string(all), "b GET /slow") != 1 {
				t.Fatalf("%q %v", all, err)
			}
		})
	}
	eventually(t, "requests were counted", func() bool {
		return a.metric("response_total", `direction="outbound"`) == 2 && b.metric("response_total", `direction="inbound"`) == 2
	})
}

// The kubelet and a scraper see the admin port on the wire, and nothing more of it.
func TestAdminPortOnTheWire(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2", withPolicy(nil))
	out := w.hostOutside("10.0.0.9")
	get := func(from *host, path string) (int, string) {
		t.Helper()
		resp, err := from.client(false).Get("http://10.0.0.2:4191" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	if st, body := get(out, "/ready"); st != 503 || !strings.Contains(body, "no policy") {
		t.Errorf("%d %s", st, body)
	}
	b.control.set(&authz.Config{Default: authz.Deny})
	if st, _ := get(out, "/ready"); st != 200 {
		t.Errorf("ready: %d", st)
	}
	if st, body := get(out, "/metrics"); st != 200 || !strings.Contains(body, "netstack_rx_packets_total") {
		t.Errorf("metrics: %d %.100s", st, body)
	}
	if st, _ := get(a.host, "/live"); st != 200 {
		t.Errorf("from a meshed pod: %d", st)
	}
	for _, path := range []string{"/config", "/shutdown", "/log-level"} {
		if st, _ := get(out, path); st != 404 {
			t.Errorf("%s: %d", path, st)
		}
	}
}

// Bytes for the admin port go nowhere, from the network or from a sidecar, and
// nobody needs to have said who may come.
func TestBytesForTheAdminPort(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2", withPolicy(nil))
	out := w.hostOutside("10.0.0.9")
	w.service("10.0.0.2:4191", "10.0.0.2:4191=b")
	for _, from := range []*host{a.host, out} {
		for range 3 { // a sidecar's later ones are streams of one connection
			c, err := from.dialTo("10.0.0.2:4191")
			if err != nil {
				t.Fatal(err)
			}
			_, _ = c.Write([]byte{0, 1, 2, 3})
			if n, err := c.Read(make([]byte, 1)); err == nil {
				t.Errorf("%d bytes came back", n)
			}
			c.Close()
		}
	}
	resp, err := out.client(false).Get("http://10.0.0.2:4191/live")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := b.metric("inbound_tcp_errors_total"); got != 0 {
		t.Errorf("%v errors counted", got)
	}
}

// SIGTERM: what is under way finishes, what is new goes elsewhere.
func TestDrain(t *testing.T) {
	w := newWorld(t)
	a := w.pod("a", "10.0.0.1")
	b := w.pod("b", "10.0.0.2", withTune(func(c *tunproxy.Config) { c.Grace = 10 * time.Second }))
	c := w.pod("c", "10.0.0.3")
	w.service("10.96.0.1:80", "10.0.0.2:80=b")
	release := make(chan struct{})
	b.serveHTTP(80, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
		_, _ = io.WriteString(rw, "b")
	})
	c.serveHTTP(80, whoami("c"))
	client := a.client(true)
	slow := make(chan error, 1)
	go func() {
		resp, err := client.Get("http://10.96.0.1/slow")
		if err == nil {
			var body []byte
			body, err = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if string(body) != "b" {
				err = errors.New("got " + resp.Status + " " + string(body))
			}
		}
		slow <- err
	}()
	eventually(t, "the slow request is there", func() bool { return b.metric("request_total", `direction="inbound"`) == 1 })
	w.service("10.96.0.1:80", "10.0.0.2:80=b", "10.0.0.3:80=c")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { // a client that goes on all the while
		for ctx.Err() == nil {
			resp, err := client.Get("http://10.96.0.1/")
			if err != nil {
				t.Errorf("while draining: %v", err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Errorf("while draining: %s %q", resp.Status, resp.Header.Get(hop.FieldProxyError))
			}
		}
	})
	time.Sleep(50 * time.Millisecond)
	b.proxy.Shutdown()
	time.Sleep(200 * time.Millisecond)
	select {
	case err := <-b.done:
		t.Fatalf("ended with a request under way: %v", err)
	default:
	}
	close(release)
	if err := <-slow; err != nil {
		t.Error(err)
	}
	select {
	case err := <-b.done:
		b.done <- err
	case <-time.After(5 * time.Second):
		t.Error("did not end after the last request")
	}
	cancel()
	wg.Wait()
}

// SIGTERM between two requests: a client is told which of them was served, so
// that none is lost, not even one that may not be repeated.
func TestDrainLosesNoRequestOnItsWay(t *testing.T) {
	w := newWorld(t)
	a, c := w.pod("a", "10.0.0.1"), w.pod("c", "10.0.0.9")
	c.serveHTTP(80, whoami("c"))
	client := a.client(true)
	for i := range 5 {
		name, ip := fmt.Sprint("b", i), fmt.Sprintf("10.0.0.%d", 2+i)
		b := w.pod(name, ip, withTune(func(c *tunproxy.Config) { c.Grace = 10 * time.Second }))
		b.serveHTTP(80, whoami(name))
		w.service("10.96.0.1:80", ip+":80="+name, "10.0.0.9:80=c")
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for ctx.Err() == nil {
					resp, err := client.Post("http://10.96.0.1/", "", nil)
					if err != nil {
						t.Errorf("while draining: %v", err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
					if resp.StatusCode != 200 {
						t.Errorf("while draining: %s %q", resp.Status, resp.Header.Get(hop.FieldProxyError))
						return
					}
				}
			})
		}
		eventually(t, "it gets requests", func() bool { return b.metric("request_total", `direction="inbound"`) > 10 })
		b.proxy.Shutdown()
		select {
		case err := <-b.done:
			b.done <- err
		case <-time.After(5 * time.Second):
			t.Error("did not end")
		}
		time.Sleep(50 * time.Millisecond)
		cancel()
		wg.Wait()
	}
}
