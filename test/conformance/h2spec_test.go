package conformance_test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

// verdicts of h2spec by case; "" is a case that passed.
type verdicts map[string]string

const skipped = "skipped"

// h2spec runs its strict cases against an address.
func h2spec(t *testing.T, from *space, address string) verdicts {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.xml")
	began := time.Now()
	out, err := from.output(t, 5*time.Minute, filepath.Join(suites, "h2spec"), "--strict", "-h", host, "-p", port, "-j", report)
	v, bad := read(report)
	if bad != nil || len(v) < 140 {
		t.Fatalf("%d cases ran: %v\n%s", len(v), errors.Join(err, bad), tail(out))
	}
	passed := 0
	for _, why := range v {
		if why == "" {
			passed++
		}
	}
	t.Logf("%d of %d cases passed in %v", passed, len(v), time.Since(began).Round(time.Millisecond))
	return v
}

func read(report string) (verdicts, error) {
	raw, err := os.ReadFile(report)
	if err != nil {
		return nil, err
	}
	var r struct {
		Suites []struct {
			Package string `xml:"package,attr"`
			Cases   []struct {
				Class   string    `xml:"classname,attr"`
				Failure *string   `xml:"failure"`
				Error   *string   `xml:"error"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(raw, &r); err != nil {
		return nil, err
	}
	v := verdicts{}
	for _, s := range r.Suites {
		for _, c := range s.Cases {
			name := s.Package + " " + c.Class
			switch {
			case c.Failure != nil:
				v[name] = "failed: " + strings.TrimSpace(*c.Failure)
			case c.Error != nil:
				v[name] = "failed: " + strings.TrimSpace(*c.Error)
			case c.Skipped != nil:
				v[name] = skipped
			default:
				v[name] = ""
			}
		}
	}
	return v, nil
}

// failures of v among the cases that passed in reference; of all, without one.
func (v verdicts) failures(reference verdicts) (bad []string) {
	for name, why := range v {
		if strings.HasPrefix(why, "failed") && (reference == nil || reference[name] == "") {
			bad = append(bad, name+": "+why)
		}
	}
	for name, why := range reference {
		if _, ran := v[name]; !ran && why == "" {
			bad = append(bad, name+": did not run")
		}
	}
	slices.Sort(bad)
	return bad
}

// testH2spec: through a pair of sidecars every case passes that passes direct,
// with nghttp2's server and with Go's.
func testH2spec(t *testing.T, p *pair) {
	for name, serve := range map[string]func(*testing.T, int){
		"nghttpd": func(t *testing.T, port int) {
			p.server.start(t, port, need(t, "nghttpd", "Debian: nghttp2-server"), "--no-tls", "--echo-upload", "-d", t.TempDir(), fmt.Sprint(port))
		},
		"net-http": func(t *testing.T, port int) {
			serveHTTP2(t, p.listen(t, port), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
		},
	} {
		port := p.port()
		t.Run(name, func(t *testing.T) {
			serve(t, port)
			direct := h2spec(t, p.server, fmt.Sprintf("127.0.0.1:%d", port))
			for _, bad := range h2spec(t, p.client, p.at(port)).failures(direct) {
				t.Error(bad)
			}
		})
	}
}

// testH2specOfTheSidecar: the app resets every HTTP/2 connection when it has
// begun, so that all answers are the sidecars' own.
func testH2specOfTheSidecar(t *testing.T, p *pair) {
	port := p.port()
	l := p.listen(t, port)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go breakHTTP2(c)
		}
	}()
	ask := func(address string) int {
		resp, err := p.httpClient(t, true).Get("http://" + address + "/")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for name, tt := range map[string]struct {
		address string
		status  int
	}{
		"after trying":                           {p.at(port), http.StatusBadGateway},
		"without a try, for the circuit breaker": {net.JoinHostPort(p.breaking, fmt.Sprint(port)), http.StatusGatewayTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			meshtest.Eventually(t, 20*time.Second, fmt.Sprint("status ", tt.status), func() bool { return ask(tt.address) == tt.status })
			for _, bad := range h2spec(t, p.client, tt.address).failures(nil) {
				t.Error(bad)
			}
		})
	}
}

// breakHTTP2 closes what is not HTTP/2 in order: that passes through the sidecars
// as bytes, and h2spec does not take a reset for an end.
func breakHTTP2(c net.Conn) {
	defer c.Close()
	b := make([]byte, 4)
	switch _, err := io.ReadFull(c, b); {
	case err != nil:
	case string(b) == "PRI ":
		_ = c.(*net.TCPConn).SetLinger(0)
	default:
		_ = c.(*net.TCPConn).CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.Copy(io.Discard, c) // a close with bytes unread is a reset
	}
}

// serveHTTP2 serves both versions in the clear until the test's end.
func serveHTTP2(t *testing.T, l net.Listener, h http.Handler) *http.Server {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: protocols, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return s
}
