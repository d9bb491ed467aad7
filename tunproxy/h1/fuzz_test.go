package h1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// FuzzRequest gives bytes to a server, whole and in two parts: both must see the
// same. What it accepts is sent on by a client, and Go's parser must read from
// that the same one request, with the same body, and nothing behind it.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"\r\nPOST http://b/x?y HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\nConnection: keep-alive, X-A\r\nX-A: b\r\n\r\nabcGET",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n3;a=\"b\"\r\nabc\r\n0\r\nX: y\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
		"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\nbytes",
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbytes",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		f.Add([]byte(s), uint16(20))
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint16) {
		if len(in) > 64<<10 {
			return
		}
		whole := fed(t, in)
		n := min(int(cut), len(in))
		parts := fed(t, in[:n], in[n:])
		if a, b := whole.summary(), parts.summary(); a != b {
			t.Fatalf("whole:\n%s\ncut at %d:\n%s", a, n, b)
		}
		for _, l := range whole.logs {
			if l.ended && l.head != nil && !l.aborted && l.head.Method != "CONNECT" && !l.head.Upgrade {
				sendOn(t, l)
			}
		}
	})
}

// fed is a server that was given bytes, and answered each request that was whole.
func fed(t *testing.T, parts ...[]byte) *served {
	v := serve(t, Config{}, nil)
	v.setup = func(l *log) {
		l.onHead = func(s message.Stream, _ *message.Head, end bool) {
			if end {
				s.SendHead(ok(0), true)
			}
		}
		l.onData = l.dataEnd
	}
	for _, p := range parts {
		if v.client.WasReset() {
			break
		}
		v.put(string(p))
	}
	for _, l := range v.logs {
		if l.ended && !l.aborted && l.stream != nil {
			l.stream.SendHead(ok(0), true) // after trailers
		}
		v.loop.Run(t)
	}
	return v
}

func (l *log) dataEnd(s message.Stream, _ []byte, end bool) {
	if end {
		s.SendHead(ok(0), true)
	}
}

func (v *served) summary() string {
	var b strings.Builder
	for _, l := range v.logs {
		b.WriteString(l.String() + "\n" + string(l.body) + "\n")
		if l.head != nil {
			b.WriteString(fieldList(l.head.Fields))
		}
	}
	if len(v.refused) > 0 { // for a reason that may depend on what is there yet
		b.WriteString("refused")
	}
	return b.String()
}

// sendOn makes a client send the request that l received, and compares what Go
// reads from it.
func sendOn(t *testing.T, l *log) {
	v := call(t, Config{})
	s, err := v.client.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	out := &log{t: t}
	s.SetReceiver(out)
	bodyless := len(l.body) == 0 && l.head.ContentLength >= 0
	s.SendHead(l.head, bodyless)
	if !bodyless {
		s.SendData(l.body, true)
	}
	b := []byte(v.take())
	if out.aborted {
		t.Fatalf("accepted %+v, but can't send it: %v", l.head, out.err)
	}
	r := bufio.NewReader(bytes.NewReader(b))
	req, err := http.ReadRequest(r)
	if err != nil {
		if strings.Contains(err.Error(), "invalid URL escape") || strings.Contains(err.Error(), "parse ") {
			return // Go reads targets as URLs; where the request ends is not in doubt
		}
		t.Fatalf("Go can't read %q: %v", b, err)
	}
	body, err := io.ReadAll(req.Body)
	if err != nil || !bytes.Equal(body, l.body) {
		t.Fatalf("body %q became %q in %q: %v", l.body, body, b, err)
	}
	if rest, _ := io.ReadAll(r); len(rest) > 0 {
		t.Fatalf("%q is left behind the request in %q", rest, b)
	}
	if req.Method != l.head.Method || req.Host != l.head.Authority && l.head.Form != message.Absolute {
		t.Fatalf("%s %s became %s %s", l.head.Method, l.head.Authority, req.Method, req.Host)
	}
	names := make([]string, 0, len(req.Header))
	for name := range req.Header {
		names = append(names, strings.ToLower(name))
	}
	for _, name := range names {
		if !slices.ContainsFunc(l.head.Fields, func(f message.Field) bool { return strings.EqualFold(f.Name, name) }) && name != "content-length" && name != "connection" {
			t.Fatalf("field %s appeared in %q", name, b)
		}
	}
}

// FuzzResponse does the same for responses.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 \r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
		"HTTP/1.0 200\r\nA: b\r\n\r\nabc",
		"HTTP/1.1 204 No\r\nConnection: close\r\n\r\n",
	} {
		f.Add([]byte(s), uint16(12), true)
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint16, eof bool) {
		if len(in) > 64<<10 {
			return
		}
		n := min(int(cut), len(in))
		a, b := answered(t, eof, in), answered(t, eof, in[:n], in[n:])
		if a.String() != b.String() || string(a.body) != string(b.body) {
			t.Fatalf("whole:\n%s\n%q\ncut at %d:\n%s\n%q", a, a.body, n, b, b.body)
		}
		if a.ended && !a.aborted && a.head.Status >= 200 {
			passOn(t, a)
		}
	})
}

// answered is what a client hears when a server answers a GET with bytes.
func answered(t *testing.T, eof bool, parts ...[]byte) *log {
	v := call(t, Config{})
	_, l := v.open(get("/"), true)
	for _, p := range parts {
		if v.server.WasReset() {
			break
		}
		v.put(string(p))
	}
	if eof {
		_ = v.server.CloseWrite()
		v.loop.Run(t)
	}
	return l
}

// passOn makes a server send the response that l received, and compares what Go
// reads from it.
func passOn(t *testing.T, l *log) {
	v := serve(t, Config{}, nil)
	v.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	s := v.logs[0].stream
	bodyless := len(l.body) == 0 && l.head.ContentLength >= 0
	s.SendHead(l.head, bodyless)
	if !bodyless {
		s.SendData(l.body, true)
	}
	b := []byte(v.take())
	if v.logs[0].aborted {
		t.Fatalf("accepted %+v, but can't send it: %v", l.head, v.logs[0].err)
	}
	r := bufio.NewReader(bytes.NewReader(b))
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("Go can't read %q: %v", b, err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil || !bytes.Equal(body, l.body) || res.StatusCode != l.head.Status {
		t.Fatalf("%d %q became %d %q in %q: %v", l.head.Status, l.body, res.StatusCode, body, b, err)
	}
	if rest, _ := io.ReadAll(r); len(rest) > 0 {
		t.Fatalf("%q is left behind the response in %q", rest, b)
	}
}
