package h1

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

func TestClientExchangesInTurn(t *testing.T) {
	v := call(t, Config{})
	for i := range 3 {
		_, l := v.open(get("/x"), true)
		mustEqual(t, v.take(), "GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n")
		if _, err := v.client.OpenStream(); !errors.Is(err, ErrBusy) {
			t.Fatalf("second stream: %v", err)
		}
		v.put("HTTP/1.1 200 Good\r\nContent-Length: 3\r\nX: y\r\n\r\nabc")
		mustEqual(t, l.String(), "head 200 \"Good\" 11 end=false\nend")
		mustEqual(t, string(l.body), "abc")
		if !v.client.Idle() || v.idle != i+1 || l.drained != 0 {
			t.Fatalf("idle %v, told %d times", v.client.Idle(), v.idle)
		}
	}
	if v.client.in != nil || v.client.out != nil {
		t.Error("an idle connection keeps memory")
	}
}

func TestClientRequests(t *testing.T) {
	for _, tt := range []struct {
		name string
		head message.Head
		end  bool
		data []string // the last one ends
		want string
	}{
		{"origin", message.Head{Method: "GET", Authority: "a", Path: "/p?q", Version: message.HTTP11}, true, nil, "GET /p?q HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"absolute", message.Head{Method: "GET", Scheme: "http", Authority: "a", Path: "/p", Form: message.Absolute, Version: message.HTTP11}, true, nil, "GET http://a/p HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"asterisk", message.Head{Method: "OPTIONS", Authority: "a", Path: "*", Form: message.Asterisk, Version: message.HTTP11}, true, nil, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"asterisk of an absolute form", message.Head{Method: "OPTIONS", Scheme: "http", Authority: "a", Path: "*", Form: message.Absolute, Version: message.HTTP11}, true, nil, "OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"empty Host", message.Head{Method: "GET", Path: "/", Version: message.HTTP11}, true, nil, "GET / HTTP/1.1\r\nHost: \r\n\r\n"},
		{"HTTP/1.0 without Host", message.Head{Method: "GET", Path: "/", Version: message.HTTP10}, true, nil, "GET / HTTP/1.0\r\n\r\n"},
		{"HTTP/1.0 with keep-alive", message.Head{Method: "GET", Path: "/", Authority: "a", Version: message.HTTP10, Fields: []message.Field{{Name: "Connection", Value: "Keep-Alive"}}}, true, nil, "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"},
		{"POST of HTTP/2 without body", message.Head{Method: "POST", Authority: "a", Path: "/", Version: message.HTTP2, ContentLength: -1}, true, nil, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"},
		{"POST of HTTP/1 without body", message.Head{Method: "POST", Authority: "a", Path: "/", Version: message.HTTP11}, true, nil, "POST / HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"said to be empty", message.Head{Method: "GET", Authority: "a", Path: "/", Version: message.HTTP11, Fields: []message.Field{{Name: "content-LENGTH", Value: "0"}}}, true, nil, "GET / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: 0\r\n\r\n"},
		{"length", message.Head{Method: "POST", Authority: "a", Path: "/", Version: message.HTTP11, ContentLength: 5, Fields: []message.Field{{Name: "Content-Length", Value: "005"}}}, false, []string{"he", "llo"}, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"},
		{"chunked", message.Head{Method: "POST", Authority: "a", Path: "/", Version: message.HTTP11, ContentLength: -1, Fields: []message.Field{{Name: "transfer-encoding", Value: "Chunked"}, {Name: "Z", Value: "1"}}}, false, []string{"hello", ""}, "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\nZ: 1\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		{"hop-by-hop fields stay behind", message.Head{Method: "GET", Authority: "a", Path: "/", Version: message.HTTP11, Fields: []message.Field{
			{Name: "Connection", Value: "close, X-Private, TE"}, {Name: "TE", Value: "trailers"}, {Name: "X-Private", Value: "1"}, {Name: "Keep-Alive", Value: "1"}, {Name: "Host", Value: "evil"}, {Name: "Kept", Value: "1"},
		}}, true, nil, "GET / HTTP/1.1\r\nTE: trailers\r\nHost: a\r\nKept: 1\r\nConnection: TE\r\n\r\n"},
		{"Host in its place and spelling", message.Head{Method: "GET", Authority: "a", Path: "/", Version: message.HTTP11, Fields: []message.Field{{Name: "Accept", Value: "*/*"}, {Name: "HOST", Value: "evil"}, {Name: "host", Value: "more"}}}, true, nil, "GET / HTTP/1.1\r\nAccept: */*\r\nHOST: a\r\n\r\n"},
		{"no chunks", message.Head{Method: "POST", Authority: "a", Path: "/", Version: message.HTTP11, ContentLength: -1, Fields: []message.Field{{Name: "Transfer-Encoding", Value: "chunked"}}}, true, nil, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{"upgrade", message.Head{Method: "GET", Authority: "a", Path: "/", Version: message.HTTP11, Upgrade: true, Fields: []message.Field{{Name: "Connection", Value: "keep-alive, Upgrade"}, {Name: "Upgrade", Value: "websocket"}}}, false, nil, "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"},
		{"connect", message.Head{Method: "CONNECT", Authority: "b:1", Form: message.Authority, Version: message.HTTP11}, false, nil, "CONNECT b:1 HTTP/1.1\r\nHost: b:1\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := call(t, Config{})
			s, l := v.open(&tt.head, tt.end)
			n := 0
			for i, d := range tt.data {
				s.SendData([]byte(d), i == len(tt.data)-1)
				n += len(d)
			}
			mustEqual(t, v.take(), tt.want)
			if l.drained != n || l.aborted {
				t.Errorf("%d drained of %d, %v", l.drained, n, l)
			}
		})
	}
}

// TestClientUnsendable: such a head would be another request for whoever reads it.
func TestClientUnsendable(t *testing.T) {
	for name, change := range map[string]func(*message.Head){
		"space in the method":          func(h *message.Head) { h.Method = "GET /x" },
		"no method":                    func(h *message.Head) { h.Method = "" },
		"space in the path":            func(h *message.Head) { h.Path = "/ HTTP/1.1" },
		"CRLF in the path":             func(h *message.Head) { h.Path = "/\r\nX: y" },
		"no path":                      func(h *message.Head) { h.Path = "" },
		"relative path":                func(h *message.Head) { h.Path = "x" },
		"CRLF in the authority":        func(h *message.Head) { h.Authority = "a\r\nX: y" },
		"user in the authority":        func(h *message.Head) { h.Authority = "u@a" },
		"CRLF in a value":              func(h *message.Head) { h.Fields = []message.Field{{Name: "A", Value: "b\r\nc"}} },
		"LF in a value":                func(h *message.Head) { h.Fields = []message.Field{{Name: "A", Value: "b\nc"}} },
		"NUL in a value":               func(h *message.Head) { h.Fields = []message.Field{{Name: "A", Value: "b\x00c"}} },
		"colon in a name":              func(h *message.Head) { h.Fields = []message.Field{{Name: "A:b", Value: "c"}} },
		"space in a name":              func(h *message.Head) { h.Fields = []message.Field{{Name: "A ", Value: "c"}} },
		"empty name":                   func(h *message.Head) { h.Fields = []message.Field{{Value: "c"}} },
		"length without a body":        func(h *message.Head) { h.ContentLength = 3 },
		"extended CONNECT":             func(h *message.Head) { h.Protocol = "websocket" },
		"asterisk and not OPTIONS":     func(h *message.Head) { h.Path, h.Form = "*", message.Asterisk },
		"absolute form, unknown thing": func(h *message.Head) { h.Scheme, h.Form = "gopher", message.Absolute },
	} {
		t.Run(name, func(t *testing.T) {
			v := call(t, Config{})
			h := get("/x")
			change(h)
			s, l := v.open(h, true)
			if !l.aborted || !errors.Is(l.err, ErrUnsendable) || s.Delivered() || v.take() != "" {
				t.Errorf("%v %v", l, l.err)
			}
			if !v.client.Idle() {
				t.Error("the connection is lost, though nothing was written")
			}
		})
	}
}

func TestClientResponses(t *testing.T) {
	for _, tt := range []struct {
		name, method, in string
		eof              bool
		want, body       string
		reusable         bool
	}{
		{"length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", false, "head 200 \"OK\" 11 end=false\nend", "hi", true},
		{"same length twice", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", false, "head 200 \"OK\" 11 end=false\nend", "hi", true},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n", false, "head 200 \"OK\" 11 end=false\nend", "hi", true},
		{"trailers", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nA: b\r\n\r\n", false, "head 200 \"OK\" 11 end=false\ntrailers A=b;", "hi", true},
		{"until close", "GET", "HTTP/1.1 200 OK\r\n\r\nhi", true, "head 200 \"OK\" 11 end=false\nend", "hi", false},
		{"HTTP/1.0 until close", "GET", "HTTP/1.0 200 OK\r\n\r\nhi", true, "head 200 \"OK\" 10 end=false\nend", "hi", false},
		{"HTTP/1.0 with length", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", false, "head 200 \"OK\" 10 end=false\nend", "hi", false},
		{"HTTP/1.0 with keep-alive", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", false, "head 200 \"OK\" 10 end=false\nend", "hi", true},
		{"Connection: close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", false, "head 200 \"OK\" 11 end=false\nend", "hi", false},
		{"no content", "GET", "HTTP/1.1 204 No Content\r\n\r\n", false, "head 204 \"No Content\" 11 end=true", "", true},
		{"204 that names a length", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", false, "head 204 \"No Content\" 11 end=true", "", true},
		{"not modified", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, "head 304 \"Not Modified\" 11 end=true", "", true},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, "head 200 \"OK\" 11 end=true", "", true},
		{"HEAD, chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, "head 200 \"OK\" 11 end=true", "", true},
		{"no reason", "GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", false, "head 200 \"\" 11 end=true", "", true},
		{"informational first", "GET", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, "head 103 \"Early Hints\" 11 end=false\nhead 100 \"Continue\" 11 end=false\nhead 200 \"OK\" 11 end=true", "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := call(t, Config{})
			h := get("/")
			h.Method = tt.method
			_, l := v.open(h, true)
			v.put(tt.in)
			if tt.eof {
				_ = v.server.CloseWrite()
				v.loop.Run(t)
			}
			mustEqual(t, l.String(), tt.want)
			mustEqual(t, string(l.body), tt.body)
			if v.client.Idle() != tt.reusable || len(v.closed) == 1 == tt.reusable {
				t.Errorf("idle %v, closed %v", v.client.Idle(), v.closed)
			}
		})
	}
}

func TestClientBadResponses(t *testing.T) {
	for _, tt := range []struct{ name, in, reason string }{
		{"not HTTP", "SSH-2.0-x\r\n\r\n", errStatusLine.Reason},
		{"status of two digits", "HTTP/1.1 20 OK\r\n\r\n", errStatus.Reason},
		{"status of four digits", "HTTP/1.1 2000 OK\r\n\r\n", errStatusLine.Reason},
		{"status below 100", "HTTP/1.1 099 No\r\n\r\n", errStatus.Reason},
		{"HTTP/2", "HTTP/2.0 200 OK\r\n\r\n", errStatusLine.Reason},
		{"bare LF", "HTTP/1.1 200 OK\nA: b\r\n\r\n", errBareLF.Reason},
		{"only bare LFs", "HTTP/1.1 200 OK\n\n", errBareLF.Reason},
		{"NUL in the reason", "HTTP/1.1 200 O\x00K\r\n\r\n", errNUL.Reason},
		{"folded", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", errFold.Reason},
		{"space before colon", "HTTP/1.1 200 OK\r\nA : b\r\n\r\n", errColonSpace.Reason},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n", errManyLengths.Reason},
		{"length and coding", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", errLengthAndTE.Reason},
		{"bad length", "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n", errLength.Reason},
		{"other coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", errTE.Reason},
		{"coding in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", errTE10.Reason},
		{"bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", errChunkSize.Reason},
		{"101 unasked", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", errSwitch.Reason},
		{"1xx without end", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", maxInformational+1), errInformational.Reason},
		{"head without end", "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", 70<<10), errHeadSize.Reason},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := call(t, Config{})
			s, l := v.open(get("/"), true)
			v.put(tt.in)
			var e *Error
			if !l.aborted || l.code != message.ProtocolError || !errors.As(l.err, &e) || e.Reason != tt.reason || e.Status != 502 || l.ended {
				t.Errorf("%v %v", l, l.err)
			}
			if !s.Delivered() || len(v.closed) != 1 {
				t.Errorf("delivered %v, closed %v", s.Delivered(), v.closed)
			}
		})
	}
}

func TestClientIdleConnection(t *testing.T) {
	t.Run("server closes", func(t *testing.T) {
		v := call(t, Config{})
		_ = v.server.CloseWrite()
		v.loop.Run(t)
		if _, err := v.client.OpenStream(); !errors.Is(err, ErrGone) || len(v.closed) != 1 || v.closed[0] != nil {
			t.Errorf("%v, closed %v", err, v.closed)
		}
	})
	t.Run("unexpected bytes", func(t *testing.T) {
		v := call(t, Config{})
		v.put("HTTP/1.1 408 Request Timeout\r\n\r\n")
		if v.client.Idle() || len(v.closed) != 1 {
			t.Errorf("idle %v, closed %v", v.client.Idle(), v.closed)
		}
	})
	t.Run("bytes after a response", func(t *testing.T) {
		v := call(t, Config{})
		_, l := v.open(get("/"), true)
		v.put("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n\r\n")
		if !l.ended || l.aborted || v.client.Idle() || len(v.closed) != 1 {
			t.Errorf("%v, idle %v, closed %v", l, v.client.Idle(), v.closed)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		v := call(t, Config{IdleTimeout: time.Second})
		_, l := v.open(get("/"), true)
		v.loop.Advance(t, time.Minute)
		v.put("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		if !l.ended || !v.client.Idle() {
			t.Fatal("timed out under a request")
		}
		v.loop.Advance(t, time.Second)
		if v.client.Idle() || len(v.closed) != 1 || v.closed[0] != nil {
			t.Errorf("closed %v", v.closed)
		}
	})
	t.Run("Close", func(t *testing.T) {
		v := call(t, Config{})
		v.client.Close()
		v.client.Close()
		v.loop.Run(t)
		if len(v.closed) != 1 || v.closed[0] != nil || !v.server.EOF() || v.server.WasReset() {
			t.Errorf("closed %v", v.closed)
		}
	})
}

// TestClientDelivered: false only while it is proof.
func TestClientDelivered(t *testing.T) {
	t.Run("closed before the first byte", func(t *testing.T) {
		v := call(t, Config{})
		_ = v.server.CloseWrite() // arrives in the pass in which the request is made
		s, err := v.client.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		l := &log{t: t}
		s.SetReceiver(l)
		s.SendHead(get("/"), true)
		v.loop.Run(t)
		if !l.aborted || s.Delivered() {
			t.Errorf("%v, delivered %v", l, s.Delivered())
		}
	})
	t.Run("closed after the request", func(t *testing.T) {
		v := call(t, Config{})
		s, l := v.open(get("/"), true)
		_ = v.server.CloseWrite()
		v.loop.Run(t)
		if !l.aborted || !errors.Is(l.err, ErrTruncated) || !s.Delivered() || l.code != message.InternalError {
			t.Errorf("%v, %v, delivered %v", l, l.err, s.Delivered())
		}
	})
	t.Run("reset after the request", func(t *testing.T) {
		v := call(t, Config{})
		s, l := v.open(get("/"), true)
		v.server.Reset()
		v.loop.Run(t)
		if !errors.Is(l.err, aio.ErrReset) || !s.Delivered() {
			t.Errorf("%v, delivered %v", l.err, s.Delivered())
		}
	})
	t.Run("aborted before it left", func(t *testing.T) {
		v := call(t, Config{})
		s, _ := v.client.OpenStream()
		s.SetReceiver(&log{t: t})
		s.SendHead(get("/"), true)
		s.Abort(message.Cancel)
		if v.take() != "" || s.Delivered() || !v.client.Idle() {
			t.Errorf("delivered %v, idle %v", s.Delivered(), v.client.Idle())
		}
		_, l := v.open(get("/2"), true)
		mustEqual(t, v.take(), "GET /2 HTTP/1.1\r\nHost: a.example\r\n\r\n")
		v.put("HTTP/1.1 204 x\r\n\r\n")
		if !l.ended {
			t.Error("the connection was not usable")
		}
	})
	t.Run("aborted after it left", func(t *testing.T) {
		v := call(t, Config{})
		s, l := v.open(get("/"), true)
		s.Abort(message.Cancel)
		v.loop.Run(t)
		if !v.server.WasReset() || l.aborted || !s.Delivered() || len(v.closed) != 1 {
			t.Errorf("reset %v, %v, closed %v", v.server.WasReset(), l, v.closed)
		}
	})
}

// TestClientUnanswered: what a server that closes a kept connection leaves open is
// told apart from an answer cut short.
func TestClientUnanswered(t *testing.T) {
	for name, c := range map[string]struct {
		first, second string // responses
		reset         bool
		want          error
	}{
		"closed":                     {"HTTP/1.1 204 x\r\n\r\n", "", false, ErrUnanswered},
		"reset":                      {"HTTP/1.1 204 x\r\n\r\n", "", true, ErrUnanswered},
		"closed inside a head":       {"HTTP/1.1 204 x\r\n\r\n", "HTTP/1.1 2", false, ErrTruncated},
		"reset inside a head":        {"HTTP/1.1 204 x\r\n\r\n", "HTTP/1.1 2", true, aio.ErrReset},
		"closed after informational": {"HTTP/1.1 204 x\r\n\r\n", "HTTP/1.1 103 x\r\n\r\n", false, ErrTruncated},
		"closed on the first":        {"", "", false, ErrTruncated},
		"reset on the first":         {"", "", true, aio.ErrReset},
	} {
		t.Run(name, func(t *testing.T) {
			v := call(t, Config{})
			if c.first != "" {
				v.open(get("/1"), true)
				v.put(c.first)
			}
			_, l := v.open(get("/2"), true)
			v.put(c.second)
			if c.reset {
				v.server.Reset()
			} else {
				_ = v.server.CloseWrite()
			}
			v.loop.Run(t)
			if !l.aborted || !errors.Is(l.err, c.want) {
				t.Errorf("%v: %v, want %v", l, l.err, c.want)
			}
		})
	}
}

func TestClientTruncated(t *testing.T) {
	for _, in := range []string{
		"HTTP/1.1 200 OK\r\nContent-Le",
		"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc",
	} {
		v := call(t, Config{})
		_, l := v.open(get("/"), true)
		v.put(in)
		_ = v.server.CloseWrite()
		v.loop.Run(t)
		if !l.aborted || l.ended || !errors.Is(l.err, ErrTruncated) {
			t.Errorf("%q: %v %v", in, l, l.err)
		}
	}
}

func TestClientEarlyResponse(t *testing.T) {
	v := call(t, Config{})
	post := &message.Head{Method: "POST", Authority: "a", Path: "/", Version: message.HTTP11, ContentLength: 6}
	s, l := v.open(post, false)
	s.SendData([]byte("abc"), false)
	v.put("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	if !l.ended || v.client.Idle() {
		t.Fatalf("%v, idle %v", l, v.client.Idle())
	}
	s.SendData([]byte("def"), true)
	v.loop.Run(t)
	if !v.client.Idle() || !strings.HasSuffix(v.take(), "\r\n\r\nabcdef") {
		t.Error("an early response that keeps the connection ended it")
	}

	// With Connection: close the server wants no more of the request.
	s, l = v.open(post, false)
	v.put("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
	mustEqual(t, l.String(), "head 413 \"Too Large\" 11 end=true\naborted NO_ERROR")
	s.SendData([]byte("abcdef"), true)
	v.loop.Run(t)
	if len(v.closed) != 1 || v.closed[0] != nil {
		t.Errorf("closed %v", v.closed)
	}
}

func TestClientUpgradeAndConnect(t *testing.T) {
	up := get("/ws", message.Field{Name: "Upgrade", Value: "websocket"})
	up.Upgrade = true
	con := &message.Head{Method: "CONNECT", Authority: "b:1", Form: message.Authority, Version: message.HTTP11}
	for _, tt := range []struct {
		name, answer string
		head         *message.Head
	}{
		{"upgrade", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", up},
		{"connect", "HTTP/1.1 200 Established\r\nContent-Length: 7\r\n\r\n", con},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := call(t, Config{})
			s, l := v.open(tt.head, false)
			v.take()
			v.put(tt.answer + "hello")
			mustEqual(t, string(l.body), "hello")
			s.SendData([]byte("raw"), true)
			mustEqual(t, v.take(), "raw")
			if !v.server.EOF() || len(v.closed) != 0 {
				t.Fatalf("half-close: EOF %v, closed %v", v.server.EOF(), v.closed)
			}
			v.put(" again")
			_ = v.server.CloseWrite()
			v.loop.Run(t)
			mustEqual(t, string(l.body), "hello again")
			if !l.ended || l.aborted || len(v.closed) != 1 || v.closed[0] != nil {
				t.Errorf("%v, closed %v", l, v.closed)
			}
		})
		t.Run(tt.name+" declined", func(t *testing.T) {
			v := call(t, Config{})
			s, l := v.open(tt.head, false)
			v.put("HTTP/1.1 403 No\r\nContent-Length: 1\r\n\r\nx")
			s.SendData(nil, true)
			v.loop.Run(t)
			mustEqual(t, l.String(), "head 403 \"No\" 11 end=false\nend")
			if len(v.closed) != 1 || v.closed[0] != nil {
				t.Errorf("closed %v", v.closed)
			}
		})
	}
}

// What is sent before the answer waits for it, and goes nowhere if it is no.
func TestClientUpgradeWithEarlyBytes(t *testing.T) {
	up := get("/ws", message.Field{Name: "Upgrade", Value: "x"})
	up.Upgrade = true
	for _, yes := range []bool{true, false} {
		v := call(t, Config{})
		s, l := v.open(up, false)
		s.SendData([]byte("early "), false)
		s.SendData([]byte("birds"), true)
		if sent := v.take(); !strings.HasSuffix(sent, "\r\n\r\n") || l.drained != 0 {
			t.Fatalf("%q, %d drained", sent, l.drained)
		}
		if !yes {
			v.put("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
			mustEqual(t, v.take(), "")
			continue
		}
		v.put("HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
		mustEqual(t, v.take(), "early birds")
		if l.drained != len("early birds") || !v.server.EOF() {
			t.Errorf("%d drained, EOF %v", l.drained, v.server.EOF())
		}
	}
}

// Both directions end while the receiver has no room for what came with the head.
func TestClientEndsBeforeItsReceiver(t *testing.T) {
	up := get("/ws", message.Field{Name: "Upgrade", Value: "x"})
	up.Upgrade = true
	v := call(t, Config{Window: 4})
	s, l := v.open(up, false)
	l.keep = true
	v.put("HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n0123456789")
	s.SendData(nil, true)
	_ = v.server.CloseWrite()
	for range 2 {
		v.loop.Run(t)
		if l.aborted || l.ended {
			t.Fatalf("%v", l)
		}
		s.Consumed(4)
	}
	v.loop.Run(t)
	mustEqual(t, string(l.body), "0123456789")
	if !l.ended || l.aborted || len(v.closed) != 1 || v.closed[0] != nil {
		t.Errorf("%v, closed %v", l, v.closed)
	}
}

func TestClientFlowControl(t *testing.T) {
	v := call(t, Config{Window: 1000})
	s, l := v.open(get("/"), true)
	l.keep = true
	v.put("HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + strings.Repeat("x", 3000))
	if len(l.body) != 1000 {
		t.Fatalf("%d bytes in a window of 1000", len(l.body))
	}
	s.Consumed(1000)
	v.loop.Run(t)
	if len(l.body) != 2000 {
		t.Fatalf("%d bytes after 1000 were consumed", len(l.body))
	}
	s.Consumed(1000)
	v.loop.Run(t)
	if !l.ended {
		t.Error("not ended")
	}
}

func TestClientWriteTimeout(t *testing.T) {
	v := call(t, Config{WriteTimeout: time.Minute})
	post := &message.Head{Method: "POST", Authority: "a", Path: "/", Version: message.HTTP11, ContentLength: -1}
	s, l := v.open(post, false)
	s.SendData(make([]byte, 2<<20), false)
	v.loop.Advance(t, time.Minute)
	if !l.aborted || !errors.Is(l.err, ErrTimeout) || !s.Delivered() {
		t.Errorf("%v %v", l, l.err)
	}
}
