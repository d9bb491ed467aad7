package conformance_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// testCurl: curl of every version of HTTP against Go's server.
func testCurl(t *testing.T, p *pair) {
	program := need(t, "curl", "Debian: curl")
	p.client.roomToSend(t)
	s := newSite()
	port, second := p.port(), p.port()
	serveHTTP2(t, p.listen(t, port), s)
	serveHTTP2(t, p.listen(t, second), s)
	url := "http://" + p.at(port)
	file := filepath.Join(t.TempDir(), "large")
	f, err := os.Create(file)
	if err == nil {
		_, err = io.Copy(f, upload(large))
		_ = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	sum := sumOf(large)
	for _, tt := range []struct{ name, args, want string }{
		{"1.1", "--http1.1 URL/a?b", "GET /a?b HOST|200"},
		{"1.1, two on one connection", "--http1.1 URL/a URL/b", "GET /a HOST|200GET /b HOST|200"},
		{"1.0", "--http1.0 URL/a", "GET /a HOST|200"},
		{"1.0 upload", "--http1.0 -T FILE URL/sum", fmt.Sprintf("%d %s [] %d |200", large, sum, large)},
		{"2", "--http2-prior-knowledge URL/a", "GET /a HOST|200"},
		{"2, asked for by an upgrade", "--http2 URL/a", "GET /a HOST|200"},
		{"upload", "--http1.1 -T FILE URL/sum", fmt.Sprintf("%d %s [] %d |200", large, sum, large)},
		{"upload without Expect", "--http1.1 -H Expect: -T FILE URL/sum", fmt.Sprintf("%d %s [] %d |200", large, sum, large)},
		{"upload in chunks", "--http1.1 -H Transfer-Encoding:chunked -T FILE URL/sum", fmt.Sprintf("%d %s [chunked] -1 |200", large, sum)},
		{"upload over 2", "--http2-prior-knowledge -T FILE URL/sum", fmt.Sprintf("%d %s [] %d |200", large, sum, large)},
		{"form", "--http1.1 --data a=b URL/sum", "3 42144f3939c3ffbbf0bf8b1f12affb5c23a4c5bd41e0ff672d54a5754f062058 [] 3 |200"},
		{"HEAD", "--http1.1 -I -o /dev/null URL/bytes?n=1000&length", "|200"},
		{"HEAD over 2", "--http2-prior-knowledge -I -o /dev/null URL/bytes?n=1000&length", "|200"},
		{"204", "--http1.1 URL/status?code=204 URL/status?code=304 URL/a", "|204|304GET /a HOST|200"},
		{"early response", "--http1.1 -H Expect: -T FILE URL/refuse", "no\n|413"},
		{"early response over 2", "--http2-prior-knowledge -T FILE URL/refuse", "no\n|413"},
		{"through a proxy", "--http1.1 -x URL http://elsewhere.example/a?b", "GET http://elsewhere.example/a?b elsewhere.example|200"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := []string{"-sS", "--max-time", "60", "-w", "|%{http_code}"}
			for a := range strings.FieldsSeq(tt.args) {
				a = strings.ReplaceAll(a, "URL", url)
				args = append(args, strings.ReplaceAll(a, "FILE", file))
			}
			out, err := p.client.output(t, 90*time.Second, program, args...)
			want := strings.ReplaceAll(tt.want, "HOST", p.at(port))
			if err != nil || out != want {
				t.Errorf("%q, want %q: %v", out, want, err)
			}
		})
	}
}

// roomToSend gives connections of the pod a send buffer of 1 MiB from the start.
// curl 7.88 (Debian 12) begins an upload over HTTP/2 with 64 KiB; when its socket
// takes only a part of these, it sends all of them once more, and has then sent
// 64 KiB more than its Content-Length says: seen in its own system calls.
func (s *space) roomToSend(t *testing.T) {
	t.Helper()
	err := s.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/tcp_wmem", []byte("4096 1048576 4194304"), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// script is what Python's client does with HOST and PORT.
const script = `
import hashlib, http.client, sys
host, port = sys.argv[1], int(sys.argv[2])
c = http.client.HTTPConnection(host, port, timeout=30)
def ask(method, path, body=None, headers={}, **kw):
    c.request(method, path, body, headers, **kw)
    r = c.getresponse()
    return r, r.read()
first = None
for i in range(3):
    r, b = ask("GET", "/x?%d" % i)
    assert r.status == 200 and r.reason == "OK" and r.version == 11, (r.status, r.reason, r.version)
    assert b == ("GET /x?%d %s:%d" % (i, host, port)).encode(), b
    assert c.sock is not None, "the connection was closed"
    assert first in (None, c.sock.getsockname()), "another connection"
    first = c.sock.getsockname()
    r, b = ask("HEAD", "/bytes?n=1000&length")
    assert r.getheader("Content-Length") == "1000" and b == b"", b
    for code in (204, 304):
        r, b = ask("GET", "/status?code=%d" % code)
        assert r.status == code and b == b"", (r.status, b)
data = bytes(range(256)) * 40000
want = hashlib.sha256(data).hexdigest()
r, b = ask("POST", "/sum", data)
assert b.decode().split()[:2] == [str(len(data)), want], b
r, b = ask("POST", "/sum", (data[i:i+1000] for i in range(0, len(data), 1000)), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
assert b.decode().split()[:3] == [str(len(data)), want, "[chunked]"], b
r, b = ask("GET", "/bytes?n=5000000")
assert len(b) == 5000000, len(b)
r, b = ask("GET", "/last", None, {"Connection": "close"})
assert r.getheader("Connection") == "close", r.getheaders()
c = http.client.HTTPConnection(host, port, timeout=30)
c._http_vsn, c._http_vsn_str = 10, "HTTP/1.0"
r, b = ask("GET", "/old")
assert r.status == 200 and r.version == 10 and b.startswith(b"GET /old"), (r.version, b)
r, b = ask("GET", "/bytes?n=5000000")
assert len(b) == 5000000 and r.getheader("Transfer-Encoding") is None, len(b)
print("fine")
`

// testPython: Python's client against Go's server, and curl and Go against
// Python's, which speaks HTTP/1.0 and closes.
func testPython(t *testing.T, p *pair) {
	program := need(t, "python3", "Debian: python3")
	port := p.port()
	serveHTTP2(t, p.listen(t, port), newSite())
	if out, err := p.client.output(t, time.Minute, program, "-c", script, p.service, fmt.Sprint(port)); err != nil || strings.TrimSpace(out) != "fine" {
		t.Errorf("%q: %v", out, err)
	}
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "large"))
	if err == nil {
		_, err = io.Copy(f, upload(large))
		_ = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	port = p.port()
	p.server.start(t, port, program, "-m", "http.server", "--directory", dir, fmt.Sprint(port))
	c := p.httpClient(t, false)
	for range 2 {
		resp, err := c.Get("http://" + p.at(port) + "/large")
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil || n != large || resp.ContentLength != large || !strings.HasPrefix(resp.Header.Get("Server"), "SimpleHTTP") {
			t.Errorf("%d of %d bytes, %v, %v", n, resp.ContentLength, err, resp.Header)
		}
	}
	resp, err := c.Get("http://" + p.at(port) + "/missing")
	if err != nil || resp.Status != "404 File not found" {
		t.Errorf("%v, %v", resp, err)
	}
}
