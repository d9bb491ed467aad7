package h1

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

func TestServerKeepAliveAndPipelining(t *testing.T) {
	v := serve(t, Config{}, echo)
	v.put("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" +
		"POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\n\r\nGET /4 HTTP/1.1\r\nHost: a\r\n\r\n")
	mustEqual(t, v.take(), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"+
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"+
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde"+
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	if len(v.logs) != 4 || !v.server.Idle() || v.server.in != nil || v.server.out != nil {
		t.Errorf("%d requests, idle %v, %d bytes kept in and %d out", len(v.logs), v.server.Idle(), len(v.server.in), len(v.server.out))
	}
}

func TestServerByteByByte(t *testing.T) {
	v := serve(t, Config{}, echo)
	in := "\r\nPOST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: v\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n"
	v.setup = func(l *log) {
		echo(l)
		onHead := l.onHead
		l.onHead = func(s message.Stream, h *message.Head, end bool) {
			onHead(s, h, end)
			if !end { // trailers end this one
				s.SendHead(ok(0), true)
			}
		}
	}
	for i := range len(in) {
		v.put(in[i : i+1])
	}
	if len(v.logs) != 2 {
		t.Fatalf("%d requests", len(v.logs))
	}
	mustEqual(t, v.logs[0].String(), "head POST a /x 11 end=false\ntrailers X-T=v;")
	mustEqual(t, string(v.logs[0].body), "abc")
	mustEqual(t, v.take(), strings.Repeat("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 2))
}

// TestServerOneAtATime: the second request waits for the first one's response.
func TestServerOneAtATime(t *testing.T) {
	v := serve(t, Config{}, nil)
	v.put("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
	if len(v.logs) != 1 {
		t.Fatalf("%d requests before the first response", len(v.logs))
	}
	v.logs[0].stream.SendHead(ok(0), true)
	v.loop.Run(t)
	if len(v.logs) != 2 {
		t.Fatalf("%d requests after the first response", len(v.logs))
	}
}

func TestServerResponseFraming(t *testing.T) {
	type step struct {
		data     string
		end      bool
		trailers bool
	}
	for _, tt := range []struct {
		name, request string
		head          message.Head
		end           bool
		body          []step
		want          string
		closes        bool
	}{
		{
			name: "length", request: "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			head: message.Head{Status: 200, Reason: "Fine", Version: message.HTTP11, ContentLength: 3, Fields: []message.Field{{Name: "A", Value: "b"}, {Name: "content-length", Value: "3"}, {Name: "C", Value: "d"}}},
			body: []step{{data: "abc", end: true}},
			want: "HTTP/1.1 200 Fine\r\nA: b\r\ncontent-length: 3\r\nC: d\r\n\r\nabc",
		},
		{
			name: "chunked with trailers", request: "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			head: message.Head{Status: 200, Version: message.HTTP2, ContentLength: -1},
			body: []step{{data: "abc"}, {data: strings.Repeat("x", 17)}, {trailers: true}},
			want: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n11\r\n" + strings.Repeat("x", 17) + "\r\n0\r\nT: v\r\n\r\n",
		},
		{
			name: "no chunks", request: "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			head: message.Head{Status: 200, Version: message.HTTP11, ContentLength: -1, Fields: []message.Field{{Name: "transfer-encoding", Value: "chunked"}}}, end: true,
			want: "HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
		},
		{
			name: "HTTP/1.0: until close", request: "GET / HTTP/1.0\r\n\r\n",
			head: message.Head{Status: 200, Version: message.HTTP2, ContentLength: -1},
			body: []step{{data: "abc", end: true}},
			want: "HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nabc", closes: true,
		},
		{
			name: "HTTP/1.0 with keep-alive", request: "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
			head: message.Head{Status: 200, Version: message.HTTP2, ContentLength: 1},
			body: []step{{data: "a", end: true}},
			want: "HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\na",
		},
		{
			name: "close asked for", request: "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n",
			head: message.Head{Status: 200, Version: message.HTTP2, ContentLength: 0}, end: true,
			want: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", closes: true,
		},
		{
			name: "HEAD keeps the fields and drops the body", request: "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
			head: message.Head{Status: 200, Version: message.HTTP2, ContentLength: 9, Fields: []message.Field{{Name: "Content-Length", Value: "9"}}},
			body: []step{{data: "surprise!", end: true}},
			want: "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
		},
		{
			name: "204 has no length", request: "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			head: message.Head{Status: 204, Version: message.HTTP2, ContentLength: 0, Fields: []message.Field{{Name: "Content-Length", Value: "0"}, {Name: "Transfer-Encoding", Value: "chunked"}}}, end: true,
			want: "HTTP/1.1 204 No Content\r\n\r\n",
		},
		{
			name: "304 keeps its length", request: "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			head: message.Head{Status: 304, Version: message.HTTP2, ContentLength: 5, Fields: []message.Field{{Name: "Content-Length", Value: "5"}}}, end: true,
			want: "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
		},
		{
			name: "hop-by-hop fields stay behind", request: "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			head: message.Head{Status: 200, Version: message.HTTP2, ContentLength: 0, Fields: []message.Field{
				{Name: "Connection", Value: "close, X-Private"}, {Name: "Keep-Alive", Value: "timeout=5"}, {Name: "x-private", Value: "1"},
				{Name: "Proxy-Connection", Value: "close"}, {Name: "Upgrade", Value: "h2c"}, {Name: "Transfer-Encoding", Value: "gzip"}, {Name: "Kept", Value: "1"},
			}}, end: true,
			want: "HTTP/1.1 200 OK\r\nKept: 1\r\nContent-Length: 0\r\n\r\n",
		},
		{
			name: "426 says to what", request: "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			head: message.Head{Status: 426, Version: message.HTTP2, Fields: []message.Field{{Name: "Upgrade", Value: "TLS/1.3"}}}, end: true,
			want: "HTTP/1.1 426 Upgrade Required\r\nUpgrade: TLS/1.3\r\nContent-Length: 0\r\nConnection: Upgrade\r\n\r\n",
		},
		{
			name: "trailers without room are dropped", request: "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			head: message.Head{Status: 200, Version: message.HTTP2, ContentLength: 1},
			body: []step{{data: "a"}, {trailers: true}},
			want: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
		},
		{
			name: "empty reason of HTTP/1 stays empty", request: "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			head: message.Head{Status: 200, Version: message.HTTP11}, end: true,
			want: "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := serve(t, Config{}, nil)
			v.put(tt.request)
			s := v.logs[0].stream
			s.SendHead(&tt.head, tt.end)
			n := 0
			for _, b := range tt.body {
				if b.trailers {
					s.SendTrailers([]message.Field{{Name: "T", Value: "v"}, {Name: "Content-Length", Value: "7"}})
					continue
				}
				s.SendData([]byte(b.data), b.end)
				n += len(b.data)
			}
			mustEqual(t, v.take(), tt.want)
			if v.logs[0].drained != n && !tt.closes {
				t.Errorf("%d bytes drained of %d", v.logs[0].drained, n)
			}
			if v.client.EOF() != tt.closes {
				t.Errorf("closed: %v", v.client.EOF())
			}
		})
	}
}

func TestServerExpectContinue(t *testing.T) {
	v := serve(t, Config{}, nil)
	v.put("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
	l := v.logs[0]
	if x, _ := l.head.Get("expect"); x != "100-continue" {
		t.Errorf("Expect did not pass: %v", l.head.Fields)
	}
	l.stream.SendHead(&message.Head{Status: 100, Reason: "Continue", Version: message.HTTP11}, false)
	mustEqual(t, v.take(), "HTTP/1.1 100 Continue\r\n\r\n")
	v.put("abc")
	l.stream.SendHead(ok(0), true)
	mustEqual(t, v.take(), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	if !v.server.Idle() {
		t.Error("not idle")
	}

	// A final answer instead of 100: whether the body comes can't be known.
	v.put("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
	l = v.logs[1]
	l.stream.SendHead(&message.Head{Status: 417, Version: message.HTTP2}, true)
	mustEqual(t, v.take(), "HTTP/1.1 417 \r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	mustEqual(t, l.events[len(l.events)-1], "aborted NO_ERROR")
	v.put("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
	if len(v.logs) != 2 || !v.client.EOF() {
		t.Errorf("%d requests, EOF %v", len(v.logs), v.client.EOF())
	}
}

func TestServerInformationalNotToHTTP10(t *testing.T) {
	v := serve(t, Config{}, nil)
	v.put("GET / HTTP/1.0\r\n\r\n")
	s := v.logs[0].stream
	s.SendHead(&message.Head{Status: 103, Version: message.HTTP11}, false)
	s.SendHead(ok(0), true)
	mustEqual(t, v.take(), "HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

func TestServerUpgrade(t *testing.T) {
	v := serve(t, Config{}, nil)
	v.put("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
	l := v.logs[0]
	if !l.head.Upgrade || len(l.body) != 0 || l.ended {
		t.Fatalf("%+v, body %q", l.head, l.body)
	}
	l.stream.SendHead(&message.Head{Status: 101, Reason: "Switching Protocols", Version: message.HTTP11, Upgrade: true, Fields: []message.Field{{Name: "Upgrade", Value: "websocket"}, {Name: "Connection", Value: "Upgrade"}}}, false)
	l.stream.SendData([]byte("from app"), false)
	mustEqual(t, v.take(), "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfrom app")
	v.put(" and late")
	mustEqual(t, string(l.body), "early and late")
	// Half-close, one direction after the other.
	if err := v.client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	v.loop.Run(t)
	if !l.ended || v.client.EOF() || len(v.closed) != 0 {
		t.Fatalf("ended %v, EOF %v, closed %v", l.ended, v.client.EOF(), v.closed)
	}
	l.stream.SendData([]byte("last"), true)
	mustEqual(t, v.take(), "last")
	if !v.client.EOF() || len(v.closed) != 1 || v.closed[0] != nil || l.aborted {
		t.Errorf("EOF %v, closed %v, aborted %v", v.client.EOF(), v.closed, l.aborted)
	}
}

func TestServerUpgradeDeclined(t *testing.T) {
	v := serve(t, Config{}, nil)
	v.put("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	v.logs[0].stream.SendHead(ok(0), true)
	mustEqual(t, v.take(), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	mustEqual(t, v.logs[0].events[1], "end")
	v.put("GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
	if len(v.logs) != 2 {
		t.Error("the connection did not go on")
	}
}

// TestServerUpgradeIgnored: h2c would hide requests in a tunnel, and a body leaves
// open where the new protocol begins.
func TestServerUpgradeIgnored(t *testing.T) {
	for _, in := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx",
		"GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\r\n",
	} {
		v := serve(t, Config{}, nil)
		v.put(in)
		if l := v.logs[0]; l.head.Upgrade || !l.ended {
			t.Errorf("%q: %+v, ended %v", in, l.head, l.ended)
		}
	}
}

func TestServerConnect(t *testing.T) {
	v := serve(t, Config{}, nil)
	v.put("CONNECT b.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n")
	l := v.logs[0]
	if l.head.Form != message.Authority || l.head.Authority != "b.example:443" || l.ended {
		t.Fatalf("%+v", l.head)
	}
	h := ok(-1)
	h.Fields = []message.Field{{Name: "Transfer-Encoding", Value: "chunked"}, {Name: "Content-Length", Value: "3"}}
	l.stream.SendHead(h, false)
	v.put("ping")
	mustEqual(t, string(l.body), "ping")
	l.stream.SendData([]byte("pong"), false)
	mustEqual(t, v.take(), "HTTP/1.1 200 OK\r\n\r\npong")
	l.stream.Abort(message.Cancel)
	v.loop.Run(t)
	if !v.client.WasReset() {
		t.Error("a reset of the tunnel did not pass")
	}
}

func TestServerConnectDeclined(t *testing.T) {
	v := serve(t, Config{}, nil)
	v.put("CONNECT b.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
	v.logs[0].stream.SendHead(&message.Head{Status: 403, Version: message.HTTP2}, true)
	mustEqual(t, v.take(), "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	if len(v.logs) != 1 || !v.client.EOF() {
		t.Errorf("%d requests, EOF %v", len(v.logs), v.client.EOF())
	}
}

func TestServerHalfClosedRequest(t *testing.T) {
	v := serve(t, Config{}, nil)
	v.put("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
	_ = v.client.CloseWrite()
	v.loop.Run(t)
	if len(v.closed) != 0 {
		t.Fatal("gave up a client that may still read")
	}
	v.logs[0].stream.SendHead(ok(0), true)
	mustEqual(t, v.take(), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	if !v.client.EOF() || len(v.closed) != 1 || v.closed[0] != nil {
		t.Errorf("EOF %v, closed %v", v.client.EOF(), v.closed)
	}
}

func TestServerEarlyResponse(t *testing.T) {
	v := serve(t, Config{}, nil)
	v.put("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
	s := v.logs[0].stream
	s.SendHead(ok(0), true)
	mustEqual(t, v.take(), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	v.put("defGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
	mustEqual(t, string(v.logs[0].body), "abcdef")
	if len(v.logs) != 2 {
		t.Fatalf("%d requests", len(v.logs))
	}

	// A receiver that does not want the rest: the answer arrives, then the end.
	v.logs[1].stream.SendHead(ok(0), true)
	v.put("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
	s = v.logs[2].stream
	s.SendHead(ok(0), true)
	s.Abort(message.NoError)
	v.loop.Run(t)
	v.put("and more")
	if !strings.HasSuffix(v.take(), "Content-Length: 0\r\n\r\n") || !v.client.EOF() || v.client.WasReset() {
		t.Errorf("EOF %v, reset %v", v.client.EOF(), v.client.WasReset())
	}
	v.loop.Advance(t, lingerTimeout)
	if len(v.closed) != 1 {
		t.Error("lingers for ever")
	}
}

func TestServerFlowControl(t *testing.T) {
	v := serve(t, Config{Window: 1000}, func(l *log) { l.keep = true })
	v.put("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n" + strings.Repeat("x", 5000))
	l := v.logs[0]
	if len(l.body) != 1000 {
		t.Fatalf("%d bytes delivered in a window of 1000", len(l.body))
	}
	v.loop.Advance(t, 10*time.Minute)
	if l.aborted {
		t.Fatal("a slow receiver counted as a slow client")
	}
	l.stream.Consumed(400)
	v.loop.Run(t)
	if len(l.body) != 1000 {
		t.Error("resumed before half of the window was free")
	}
	for !l.ended {
		was := len(l.body)
		l.stream.Consumed(1000)
		v.loop.Run(t)
		if len(l.body) == was || len(l.body)-was > 1400 {
			t.Fatalf("%d bytes, then %d", was, len(l.body))
		}
	}
	if len(l.body) != 5000 {
		t.Errorf("%d bytes", len(l.body))
	}
}

func TestServerBackpressure(t *testing.T) {
	v := serve(t, Config{WriteTimeout: time.Minute}, nil)
	v.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	l := v.logs[0]
	l.stream.SendHead(ok(4<<20), false)
	chunk := make([]byte, 64<<10)
	for range 24 { // 1.5 MiB into a pipe of 1 MiB
		l.stream.SendData(chunk, false)
		v.loop.Run(t)
	}
	if l.drained >= 24*len(chunk) || l.drained < 14*len(chunk) {
		t.Fatalf("%d bytes drained", l.drained)
	}
	v.client.Take()
	v.loop.Run(t)
	if l.drained != 24*len(chunk) {
		t.Fatalf("%d bytes drained after the client read", l.drained)
	}
	for range 20 {
		l.stream.SendData(chunk, false)
	}
	for range 7 {
		l.stream.SendData(chunk, false)
		v.loop.Advance(t, 10*time.Second) // more to send does not move the deadline
	}
	if !l.aborted || !errors.Is(l.err, ErrTimeout) || !v.client.WasReset() {
		t.Errorf("aborted %v, %v; a client that does not read is kept", l.aborted, l.err)
	}
}

// TestLargeBodiesLeaveEarly: of a body that comes in one pass, little gathers;
// what a client has no room for waits, and all of it arrives in order.
func TestLargeBodiesLeaveEarly(t *testing.T) {
	v := serve(t, Config{}, nil)
	v.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	l, w := v.logs[0], &v.server.wire
	var want []byte
	send := func(pieces int) {
		p := make([]byte, 16<<10)
		for i := range pieces {
			for j := range p {
				p[j] = byte(i + j/100 + len(want)/7)
			}
			want = append(want, p...)
			l.stream.SendData(p, false)
		}
	}
	l.stream.SendHead(ok(3<<20), false)
	send(40)
	if cap(w.out) > largeBlock || w.pending() >= pushSize || w.sent < 500<<10 {
		t.Errorf("%d bytes left before the end of the pass, %d wait in %d", w.sent, w.pending(), cap(w.out))
	}
	if l.drained != 0 {
		t.Error("told from inside SendData what left")
	}
	send(152) // more than the pipe holds
	if w.sent > 1<<20 || w.pending() < 1<<20 {
		t.Errorf("%d bytes left, %d wait", w.sent, w.pending())
	}
	got := v.take()
	for range 5 {
		got += v.take()
	}
	_, body, _ := strings.Cut(got, "\r\n\r\n")
	if body != string(want) || l.drained != len(want) {
		t.Errorf("%d of %d bytes arrived, or changed; %d drained", len(body), len(want), l.drained)
	}
}

func TestServerPipelineOfAClientThatDoesNotRead(t *testing.T) {
	v := serve(t, Config{}, nil)
	body := strings.Repeat("x", 900<<10)
	v.setup = func(l *log) {
		l.onHead = func(s message.Stream, _ *message.Head, _ bool) {
			s.SendHead(ok(int64(len(body))), false)
			s.SendData([]byte(body), true)
		}
	}
	v.put(strings.Repeat("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 100))
	if len(v.logs) > 3 {
		t.Errorf("%d responses made for a client that reads none", len(v.logs))
	}
	for range 200 {
		v.take()
	}
	if len(v.logs) != 100 {
		t.Errorf("%d requests served", len(v.logs))
	}
}

func TestServerTimeouts(t *testing.T) {
	t.Run("head", func(t *testing.T) {
		v := serve(t, Config{}, echo)
		v.put("GET / HT")
		for range 9 {
			v.loop.Advance(t, time.Second)
			v.put("T")
		}
		v.loop.Advance(t, time.Second)
		if got := v.take(); !strings.HasPrefix(got, "HTTP/1.1 408 ") || !v.client.EOF() {
			t.Errorf("%q", got)
		}
		mustEqual(t, strings.Join(v.refused, " "), errSlowHead.Reason)
	})
	t.Run("body", func(t *testing.T) {
		v := serve(t, Config{BodyTimeout: time.Minute}, nil)
		v.put("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
		v.loop.Advance(t, 50*time.Second)
		v.put("1\r\nx\r\n")
		v.loop.Advance(t, 50*time.Second)
		if v.logs[0].aborted {
			t.Fatal("progress did not count")
		}
		v.loop.Advance(t, 10*time.Second)
		if l := v.logs[0]; !l.aborted || l.code != message.ProtocolError {
			t.Errorf("%v", l)
		}
		if got := v.take(); !strings.HasPrefix(got, "HTTP/1.1 408 ") {
			t.Errorf("%q", got)
		}
	})
	t.Run("idle", func(t *testing.T) {
		v := serve(t, Config{IdleTimeout: time.Minute}, echo)
		v.loop.Advance(t, 40*time.Second)
		v.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		v.loop.Advance(t, 40*time.Second)
		if len(v.closed) != 0 {
			t.Fatal("closed too early")
		}
		v.loop.Advance(t, 20*time.Second)
		if len(v.closed) != 1 || v.closed[0] != nil {
			t.Errorf("closed %v", v.closed)
		}
	})
	t.Run("a response may take its time", func(t *testing.T) {
		v := serve(t, Config{IdleTimeout: time.Minute}, nil)
		v.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		v.loop.Advance(t, time.Hour)
		v.logs[0].stream.SendHead(ok(0), true)
		mustEqual(t, v.take(), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		v.loop.Advance(t, time.Minute)
		if len(v.closed) != 1 {
			t.Error("idle timeout lost")
		}
	})
}

func TestServerDrain(t *testing.T) {
	v := serve(t, Config{}, nil)
	v.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	v.server.Drain()
	v.loop.Run(t)
	if len(v.closed) != 0 {
		t.Fatal("closed under a request")
	}
	v.logs[0].stream.SendHead(ok(0), true)
	mustEqual(t, v.take(), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	if !v.client.EOF() {
		t.Error("open after the last response")
	}

	v = serve(t, Config{}, nil)
	v.server.Drain()
	v.loop.Run(t)
	if len(v.closed) != 1 || v.closed[0] != nil || !v.client.EOF() {
		t.Errorf("idle: closed %v, EOF %v", v.closed, v.client.EOF())
	}
}

func TestServerBreaks(t *testing.T) {
	t.Run("client resets", func(t *testing.T) {
		v := serve(t, Config{}, nil)
		v.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		v.client.Reset()
		v.loop.Run(t)
		if l := v.logs[0]; !l.aborted || l.code != message.Cancel || !errors.Is(l.err, aio.ErrReset) {
			t.Errorf("%v %v", l, l.err)
		}
		if len(v.closed) != 1 || !errors.Is(v.closed[0], aio.ErrReset) {
			t.Errorf("closed %v", v.closed)
		}
	})
	t.Run("client ends inside a body", func(t *testing.T) {
		v := serve(t, Config{}, nil)
		v.put("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
		_ = v.client.CloseWrite()
		v.loop.Run(t)
		if l := v.logs[0]; !l.aborted || !errors.Is(l.err, ErrTruncated) || l.ended {
			t.Errorf("%v %v", l, l.err)
		}
	})
	t.Run("receiver aborts inside a response", func(t *testing.T) {
		v := serve(t, Config{}, nil)
		v.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		s := v.logs[0].stream
		s.SendHead(ok(-1), false)
		s.SendData([]byte("abc"), false)
		v.loop.Run(t)
		s.Abort(message.InternalError)
		s.SendData([]byte("def"), true)
		v.loop.Run(t)
		if !v.client.WasReset() || v.logs[0].aborted || len(v.closed) != 1 {
			t.Errorf("reset %v, %v, closed %v", v.client.WasReset(), v.logs[0], v.closed)
		}
	})
	t.Run("body shorter than its length", func(t *testing.T) {
		v := serve(t, Config{}, nil)
		v.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		s := v.logs[0].stream
		s.SendHead(ok(5), false)
		s.SendData([]byte("abc"), true)
		v.loop.Run(t)
		if !v.client.WasReset() || !errors.Is(v.logs[0].err, ErrUnsendable) {
			t.Errorf("reset %v, %v", v.client.WasReset(), v.logs[0].err)
		}
	})
	t.Run("body longer than its length", func(t *testing.T) {
		v := serve(t, Config{}, nil)
		v.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		s := v.logs[0].stream
		s.SendHead(ok(2), false)
		s.SendData([]byte("abc"), true)
		v.loop.Run(t)
		if !v.client.WasReset() || v.logs[0].code != message.InternalError {
			t.Errorf("reset %v, %v", v.client.WasReset(), v.logs[0])
		}
	})
	t.Run("field that would split the response", func(t *testing.T) {
		v := serve(t, Config{}, nil)
		v.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		h := ok(0)
		h.Fields = []message.Field{{Name: "X", Value: "a\r\nSet-Cookie: b"}}
		v.logs[0].stream.SendHead(h, true)
		if got := v.take(); got != "" || !v.client.WasReset() {
			t.Errorf("wrote %q", got)
		}
	})
	t.Run("malformed chunk before the response", func(t *testing.T) {
		v := serve(t, Config{}, nil)
		v.put("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nZ\r\n")
		if l := v.logs[0]; !l.aborted || l.code != message.ProtocolError || l.ended {
			t.Errorf("%v", l)
		}
		if got := v.take(); !strings.HasPrefix(got, "HTTP/1.1 400 ") || !v.client.EOF() {
			t.Errorf("%q", got)
		}
	})
	t.Run("malformed chunk after the response began", func(t *testing.T) {
		v := serve(t, Config{}, nil)
		v.put("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
		v.logs[0].stream.SendHead(ok(-1), false)
		v.put("Z\r\n")
		if l := v.logs[0]; !l.aborted || l.code != message.ProtocolError || !v.client.WasReset() {
			t.Errorf("%v, reset %v", l, v.client.WasReset())
		}
	})
	t.Run("nobody takes the request", func(t *testing.T) {
		v := serve(t, Config{}, nil)
		v.server.accept = func(message.Stream) {}
		v.put("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if !v.client.WasReset() {
			t.Error("hangs")
		}
	})
}
