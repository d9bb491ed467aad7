package tunproxy

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
)

type adminRig struct {
	*admin
	registry  *telemetry.Registry
	notReady  error
	chain     []byte
	shutdowns atomic.Int32
}

func newAdminRig() *adminRig {
	r := &adminRig{registry: telemetry.NewRegistry(telemetry.Config{})}
	some := telemetry.NewCounters(r.registry, "some_total", "Many.")
	for i := range 5 * pieceSize / 20 {
		some.Once(telemetry.Label{Name: "n", Value: fmt.Sprint(i)})
	}
	r.admin = &admin{
		ready:       func() error { return r.notReady },
		metrics:     r.registry.Page,
		certificate: func() []byte { return r.chain },
		connections: func(_ context.Context, limit int) ([]wire.Connection, int) {
			return []wire.Connection{{Direction: "inbound", RTTUS: 1500, Labels: map[string]string{"limit": fmt.Sprint(limit)}}}, 4711
		},
		anchors:  func() []byte { return r.chain },
		config:   map[string]string{"pod": "ns/web-0"},
		level:    new(slog.LevelVar),
		shutdown: func() { r.shutdowns.Add(1) },
		draining: new(atomic.Bool),
	}
	return r
}

func TestAdminServesLittleOnTheWire(t *testing.T) {
	a := newAdminRig()
	if got := a.answer(question{Method: "GET", Path: "/certificate"}).Status; got != 503 {
		t.Errorf("without a certificate: %d", got)
	}
	a.chain = []byte("-----BEGIN CERTIFICATE-----\n")
	for path, want := range map[string]int{
		"/live": 200, "/ready": 200, "/metrics": 200, "/certificate": 200, "/trust-anchors": 200,
		"/config": 404, "/connections": 404, "/log-level": 404, "/shutdown": 404, "/debug/goroutines": 404, "/": 404,
	} {
		for _, method := range []string{"GET", "POST", "PUT"} {
			got := a.answer(question{Method: method, Path: path}).Status
			w := want
			if w == 200 && method != "GET" {
				w = 405
			}
			if got != w {
				t.Errorf("%s %s on the wire: %d, want %d", method, path, got, w)
			}
		}
	}
	if a.shutdowns.Load() != 0 {
		t.Error("shut down from the wire")
	}
}

func TestAdminReadiness(t *testing.T) {
	a := newAdminRig()
	a.notReady = errors.New("no certificate yet")
	if r := a.answer(question{Method: "GET", Path: "/ready"}); r.Status != 503 || !strings.Contains(string(r.Body), "no certificate yet") {
		t.Fatalf("%d %s", r.Status, r.Body)
	}
	if r := a.answer(question{Method: "GET", Path: "/live"}); r.Status != 200 {
		t.Fatalf("live: %d", r.Status)
	}
	a.notReady = nil
	a.draining.Store(true)
	if r := a.answer(question{Method: "GET", Path: "/ready"}); r.Status != 503 {
		t.Fatalf("draining: %d", r.Status)
	}
}

// ask sends raw bytes over loopback and returns the whole answer.
func ask(t *testing.T, addr, raw string) string {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func startLocal(t *testing.T, a *admin) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.serveLocal(ctx, []net.Listener{l}, slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() { cancel(); <-done })
	return l.Addr().String()
}

func TestAdminOnLoopback(t *testing.T) {
	a := newAdminRig()
	addr := startLocal(t, a.admin)
	for _, c := range []struct{ raw, want string }{
		{"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK|some_total{n=\"0\"} 1"},
		{"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text;\tq=0.5\r\nAccept: text/plain;q=0.4\r\n\r\n", "200 OK|# EOF"},
		{"GET /metrics HTTP/1.1\r\naccept-encoding: br\r\nAccept-Encoding: gzip\r\n\r\n", "200 OK|content-encoding: gzip"},
		{"GET /config HTTP/1.1\r\n\r\n", "200 OK|ns/web-0"},
		{"GET /connections HTTP/1.1\r\n\r\n", "200 OK|\"rttSeconds\": 0.0015"},
		{"GET /connections?limit=17 HTTP/1.1\r\n\r\n", "200 OK|\"limit\": \"17\""},
		{"GET /connections?limit=1001 HTTP/1.1\r\n\r\n", "400 Bad Request|up to 1000"},
		{"GET /connections?last=1 HTTP/1.1\r\n\r\n", "400 Bad Request|limit=N"},
		{"GET /log-level HTTP/1.0\r\n\r\n", "200 OK|info"},
		{"PUT /log-level HTTP/1.1\r\nContent-Length: 5\r\n\r\ndebug", "200 OK|debug"},
		{"PUT /log-level HTTP/1.1\r\nContent-Length: 4\r\n\r\nloud", "400 Bad Request|want debug"},
		{"GET /shutdown HTTP/1.1\r\n\r\n", "405 Method Not Allowed|use POST"},
		{"POST /shutdown HTTP/1.1\r\n\r\n", "200 OK|draining"},
		{"GET /debug/goroutines HTTP/1.1\r\n\r\n", "200 OK|goroutine"},
		{"GET /debug/nothing HTTP/1.1\r\n\r\n", "404 Not Found|not found"},
		{"HEAD /live HTTP/1.1\r\n\r\n", "200 OK|connection: close"},
		{"nonsense\r\n\r\n", "400 Bad Request|not a request line"},
		{"PUT /log-level HTTP/1.1\r\nContent-Length: 99999\r\n\r\n", "400 Bad Request|content-length"},
		{"PUT /log-level HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "400 Bad Request|transfer-encoding"},
		{"GET /live HTTP/1.1\r\n" + strings.Repeat("a", localHead), "400 Bad Request|head of at most"},
	} {
		got := ask(t, addr, c.raw)
		status, contains, _ := strings.Cut(c.want, "|")
		if !strings.HasPrefix(got, "HTTP/1.1 "+status) || !strings.Contains(got, contains) {
			t.Errorf("%.40q: got %q, want %q", c.raw, got, c.want)
		}
	}
	if a.shutdowns.Load() != 1 {
		t.Errorf("%d shutdowns", a.shutdowns.Load())
	}
	if a.level.Level() != slog.LevelDebug {
		t.Errorf("level %v", a.level.Level())
	}
}

// TestScrapeIsNegotiated: on the wire too, whatever the fields' case.
func TestScrapeIsNegotiated(t *testing.T) {
	a := newAdminRig()
	s := &answered{}
	a.Serve(s)
	s.r.Head(s, &message.Head{Method: "GET", Path: "/metrics", Fields: []message.Field{
		{Name: "ACCEPT", Value: "application/openmetrics-text;version=1.0.0"}, {Name: "Accept-Encoding", Value: "gzip"},
	}}, true)
	for range 20 {
		s.r.Drained(s, pieceSize)
	}
	if coding, _ := s.head.Get("content-encoding"); coding != "gzip" || !s.end {
		t.Fatalf("coding %q, ended %v", coding, s.end)
	}
	z, err := gzip.NewReader(strings.NewReader(s.body))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(z); err != nil || !bytes.HasSuffix(b, []byte("\n# EOF\n")) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// More questions than slots: none is lost.
func TestAdminIsBounded(t *testing.T) {
	a := newAdminRig()
	addr := startLocal(t, a.admin)
	errs := make(chan error, 4*localConns)
	for range cap(errs) {
		go func() {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				defer c.Close()
				_, _ = fmt.Fprint(c, "GET /live HTTP/1.1\r\n\r\n")
				b, _ := io.ReadAll(c)
				if !strings.Contains(string(b), "200 OK") {
					err = fmt.Errorf("got %q", b)
				}
			}
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzReadQuestion(f *testing.F) {
	for _, s := range []string{
		"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
		"PUT /log-level?x HTTP/1.0\nContent-Length: 5\n\ndebug",
		"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "\r\n", " ", "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := readQuestion(bytes.NewReader(b))
		if err == nil && (q.Method == "" && b[0] != ' ' || len(q.Body) > localBody || !q.Local) {
			t.Errorf("%q: %+v", b, q)
		}
	})
}

// answered is a stream that notes what the admin says.
type answered struct {
	message.Stream
	r    message.Receiver
	head *message.Head
	body string
	end  bool
}

func (s *answered) SetReceiver(r message.Receiver)     { s.r = r }
func (s *answered) SendHead(h *message.Head, end bool) { s.head, s.end = h.Clone(), end }
func (s *answered) SendData(p []byte, end bool)        { s.body, s.end = s.body+string(p), end }
func (s *answered) Consumed(int)                       {}
func (s *answered) head0(method, path string, end bool) {
	s.r.Head(s, &message.Head{Method: method, Path: path}, end)
}

func TestAdminOnTheWire(t *testing.T) {
	a := newAdminRig()
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/metrics?x=y", string(a.registry.Text()), 200},
		{"HEAD", "/live", "", 200},
		{"GET", "/config", "not found", 404},
	} {
		s := &answered{}
		a.Serve(s)
		s.head0(c.method, c.path, false)
		s.r.Data(s, []byte("ignored"), true)
		for range 10 { // what was sent leaves
			s.r.Drained(s, pieceSize)
		}
		if n, said := s.head.Get("content-length"); c.path == "/metrics?x=y" && (said || s.head.ContentLength != -1) {
			t.Errorf("%s %s: the length is said to be %q", c.method, c.path, n)
		}
		if s.head == nil || s.head.Status != c.status || !strings.HasPrefix(s.body, c.body) || !s.end {
			t.Errorf("%s %s: %+v %q", c.method, c.path, s.head, s.body)
		}
	}
}
