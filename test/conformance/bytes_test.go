package conformance_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// app is a server that keeps what it hears, byte by byte, and answers with bytes.
type app struct {
	mu     sync.Mutex
	answer string
	heard  []string
}

// set says what the next requests are answered with.
func (a *app) set(answer string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer, a.heard = answer, nil
}

func (a *app) got() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.heard
}

func (a *app) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go a.talk(c)
	}
}

// talk ends a connection after an answer that only its end delimits.
func (a *app) talk(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(c)
	for {
		m, err := readMessage(r, "")
		if err != nil {
			return
		}
		a.mu.Lock()
		a.heard = append(a.heard, m)
		answer := a.answer
		a.mu.Unlock()
		if _, err := io.WriteString(c, answer); err != nil {
			return
		}
		if method, _, _ := strings.Cut(m, " "); !delimited(answer, method) {
			return
		}
	}
}

func delimited(answer, method string) bool {
	_, err := readMessage(bufio.NewReader(strings.NewReader(answer)), method)
	return err == nil
}

// errUntilClose: the message's end is the connection's.
var errUntilClose = errors.New("until the connection's end")

// readMessage reads one message as it is, but for chunks, whose boundaries are
// nobody's: a chunked body is shown whole, with its trailers behind it. method
// is that of the request that is answered, "" for requests. Informational
// responses are part of the answer.
func readMessage(r *bufio.Reader, method string) (string, error) {
	var head strings.Builder
	for {
		line, err := r.ReadString('\n')
		head.WriteString(line)
		if err != nil {
			return head.String(), err
		}
		if line == "\r\n" {
			break
		}
	}
	m := head.String()
	status := 0
	if strings.HasPrefix(m, "HTTP/") {
		status, _ = strconv.Atoi(m[9:12])
	}
	switch {
	case status/100 == 1 && status != 101:
		rest, err := readMessage(r, method)
		return m + rest, err
	case status == 101, status == 204, status == 304, status != 0 && method == "HEAD":
		return m, nil
	}
	body, err := readBody(r, m, status != 0)
	return m + body, err
}

func readBody(r *bufio.Reader, head string, response bool) (string, error) {
	length := -1
	for line := range strings.SplitSeq(head, "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); strings.ToLower(name) {
		case "transfer-encoding":
			return readChunks(r)
		case "content-length":
			n, err := strconv.Atoi(value)
			if err != nil {
				return "", err
			}
			length = n
		}
	}
	if length < 0 && response {
		b, err := io.ReadAll(r)
		return string(b), errors.Join(err, errUntilClose)
	}
	b := make([]byte, max(length, 0))
	_, err := io.ReadFull(r, b)
	return string(b), err
}

func readChunks(r *bufio.Reader) (string, error) {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return b.String(), err
		}
		size, _, _ := strings.Cut(strings.TrimSpace(line), ";")
		n, err := strconv.ParseUint(size, 16, 31)
		if err != nil {
			return b.String(), err
		}
		if n == 0 {
			break
		}
		if _, err := io.CopyN(&b, r, int64(n)); err != nil {
			return b.String(), err
		}
		if crlf, err := r.ReadString('\n'); err != nil || crlf != "\r\n" {
			return b.String(), fmt.Errorf("chunk ends with %q: %w", crlf, err)
		}
	}
	b.WriteString("<end>")
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return b.String(), err
		}
		b.WriteString(line)
		if line == "\r\n" {
			return b.String(), nil
		}
	}
}

// ask sends bytes on a connection of their own and returns the whole answer.
func (p *pair) ask(t *testing.T, port int, request string) string {
	t.Helper()
	c, err := p.dial(t.Context(), p.at(port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	m, err := readMessage(bufio.NewReader(c), method)
	if err != nil && !errors.Is(err, errUntilClose) {
		t.Errorf("the answer is cut off: %v: %q", err, m)
	}
	return m
}

const plainAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"

// testRequests: what the app sent is what the app gets.
func testRequests(t *testing.T, p *pair) {
	port := p.port()
	a := &app{}
	go a.serve(p.listen(t, port))
	many := ""
	for i := range 100 {
		many += fmt.Sprintf("X-Field-%d: value %d\r\n", i, i)
	}
	for _, tt := range []struct{ name, sent, heard string }{ // heard "": as sent
		{"usual spelling", "GET /a?b=c HTTP/1.1\r\nHost: a.example\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n", ""},
		{"lower case", "GET / HTTP/1.1\r\nhost: a.example\r\nuser-agent: x\r\naccept: */*\r\n\r\n", ""},
		{"upper case", "GET / HTTP/1.1\r\nHOST: a.example\r\nUSER-AGENT: x\r\nACCEPT: */*\r\n\r\n", ""},
		{"mixed case", "GET / HTTP/1.1\r\nHost: a.example\r\nX-UPPER: 1\r\nx-lower: 2\r\nx-MiXeD: 3\r\nETag: 4\r\nX-Request-ID: 5\r\n\r\n", ""},
		{"Host last", "GET / HTTP/1.1\r\nAccept: */*\r\nUser-Agent: x\r\nHost: a.example\r\n\r\n", ""},
		{"Host in the middle, irregular", "GET / HTTP/1.1\r\naccept: */*\r\nhOST: a.example\r\nuser-agent: x\r\n\r\n", ""},
		{"Host alone", "GET / HTTP/1.1\r\nHost: a.example:8080\r\n\r\n", ""},
		{"empty Host", "GET / HTTP/1.1\r\nHost: \r\nAccept: */*\r\n\r\n", ""},
		{"IPv6 Host", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", ""},
		{"repeated names", "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-a: 2\r\nX-A: 3\r\nX-B: 4\r\nX-A: 5\r\n\r\n", ""},
		{"cookies", "GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b; c=d\r\nCookie: e=f\r\n\r\n", ""},
		{"values", "GET / HTTP/1.1\r\nHost: a\r\nX-Tab: a\tb  c\r\nX-Latin: \xe4\xf6\r\nX-Quote: \"a, b\"; c=\"\\\"\"\r\nX-Empty: \r\n\r\n", ""},
		{"white space around a value", "GET / HTTP/1.1\r\nHost:a\r\nX-A: \t 1 \t \r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n\r\n"},
		{"odd target", "GET //a/../b;c=d?e=%2f%00&&f[]={|}^`\\\"<>? HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"UTF-8 target", "GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"absolute form", "GET http://a.example:8080/p?q HTTP/1.1\r\nHost: a.example:8080\r\nAccept: */*\r\n\r\n", ""},
		{"absolute form, https", "GET https://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", ""},
		{"absolute form wins over Host", "GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n", "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n"},
		{"absolute form without a path", "GET http://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n", "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n"},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"asterisk of another host", "OPTIONS http://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n", ""},
		{"unknown method", "BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"method in lower case", "get / HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"method with punctuation", "M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nX-After: 1\r\n\r\nabc", ""},
		{"length, spelled", "POST / HTTP/1.1\r\nHost: a\r\nCONTENT-length: 3\r\nX-After: 1\r\n\r\nabc", ""},
		{"no length", "POST / HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		{"length of nothing", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", ""},
		{"length of nothing in a GET", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", ""},
		{"chunks", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", ""},
		{"chunks, in the middle, spelled", "POST / HTTP/1.1\r\nHost: a\r\nTRANSFER-encoding: chunked\r\nX-After: 1\r\nX-More: 2\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ""},
		{"chunks with extensions", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b;c=\"d\"\r\nabc\r\n0;e\r\n\r\n", ""},
		{"no chunks", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""},
		{"trailers", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\nx-more: 2\r\n\r\n", ""},
		{"body of a GET", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", ""},
		{"body of a DELETE in chunks", "DELETE / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ""},
		{"TE", "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nX-After: 1\r\nConnection: TE\r\n\r\n", ""},
		{"of the connection", "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\nX-Yours: 1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX-Yours: 1\r\n\r\n"},
		{"close", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-A: 1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n\r\n"},
		{"offer of HTTP/2", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"sidecars' fields", "GET / HTTP/1.1\r\nHost: a\r\nX-Tunmesh-Orig: 1.0\r\nx_tunmesh_orig: 1.0\r\nX-A: 1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n\r\n"},
		{"HTTP/1.0", "GET /old HTTP/1.0\r\n\r\n", ""},
		{"HTTP/1.0 with fields", "GET /old HTTP/1.0\r\nUser-Agent: ab\r\nHost: a\r\nAccept: */*\r\n\r\n", ""},
		{"HTTP/1.0 that keeps alive", "GET /old HTTP/1.0\r\nHost: a\r\nUser-Agent: ab\r\nConnection: keep-alive\r\n\r\n", ""},
		{"HTTP/1.0 with a body", "POST /old HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", ""},
		{"many fields", "GET / HTTP/1.1\r\nHost: a\r\n" + many + "\r\n", ""},
		{"large field", "GET / HTTP/1.1\r\nHost: a\r\nX-Large: " + strings.Repeat("x", 40<<10) + "\r\n\r\n", ""},
		{"long target", "GET /" + strings.Repeat("x", 40<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a.set(plainAnswer)
			p.ask(t, port, tt.sent)
			want := tt.heard
			if want == "" {
				want = tt.sent
			}
			heard := a.got()
			if want, _ = readMessage(bufio.NewReader(strings.NewReader(want)), ""); len(heard) != 1 || heard[0] != want {
				t.Errorf("the app got\n%.2000q\nwant\n%.2000q", heard, want)
			}
		})
	}
}

// testResponses: the other way round.
func testResponses(t *testing.T, p *pair) {
	port := p.port()
	a := &app{}
	go a.serve(p.listen(t, port))
	const (
		get  = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
		head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
		old  = "GET / HTTP/1.0\r\nHost: a\r\n\r\n"
		kept = "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
	)
	for _, tt := range []struct{ name, request, sent, got string }{ // got "": as sent
		{"usual spelling", get, "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nX-A: b\r\n\r\nhi", ""},
		{"lower case", get, "HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length: 2\r\ndate: now\r\n\r\nhi", ""},
		{"mixed case", get, "HTTP/1.1 200 OK\r\nETag: \"x\"\r\nCONTENT-LENGTH: 2\r\nwww-AUTHENTICATE: y\r\nX-a: 1\r\nx-A: 2\r\n\r\nhi", ""},
		{"cookies", get, "HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nset-cookie: c=d\r\nSet-Cookie: e=f\r\nContent-Length: 0\r\n\r\n", ""},
		{"reason", get, "HTTP/1.1 200 Fine by me\r\nContent-Length: 0\r\n\r\n", ""},
		{"reason with quotes", get, "HTTP/1.1 404 No \"a\"; r=\"b\"\r\nContent-Length: 0\r\n\r\n", ""},
		{"reason beyond ASCII", get, "HTTP/1.1 404 Nicht gefunden: \xc3\xa4\xe4\tb\r\nContent-Length: 0\r\n\r\n", ""},
		{"empty reason", get, "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", ""},
		{"no reason", get, "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"},
		{"unknown status", get, "HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n", ""},
		{"unknown status without a reason", get, "HTTP/1.1 599 \r\nContent-Length: 0\r\n\r\n", ""},
		{"status beyond the classes", get, "HTTP/1.1 777 Lucky\r\nContent-Length: 0\r\n\r\n", ""},
		{"errors", get, "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\nno", ""},
		{"no content", get, "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n", ""},
		{"no content with a length", get, "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"},
		{"reset content", get, "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", ""},
		{"not modified", get, "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 1234\r\n\r\n", ""},
		{"not modified without a length", get, "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n", ""},
		{"HEAD with a length", head, "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nX-A: b\r\n\r\n", ""},
		{"HEAD with the length 0", head, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""},
		{"HEAD without a length", head, "HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n", ""},
		{"HEAD of chunks", head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n", ""},
		{"HEAD that is not found", head, "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n", ""},
		{"early hints", get, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </b>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", ""},
		{"processing", get, "HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", ""},
		{"unasked continue", get, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", ""},
		{"chunks", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", ""},
		{"chunks, in the middle, spelled", get, "HTTP/1.1 200 OK\r\nX-A: 1\r\ntransfer-ENCODING: chunked\r\nX-B: 2\r\nX-C: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n", ""},
		{"no chunks", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""},
		{"trailers", get, "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n", ""},
		{"until close", get, "HTTP/1.1 200 OK\r\nX-A: b\r\nConnection: close\r\n\r\nhello", "HTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\nhello<end>\r\n"},
		{"HTTP/1.0 until close", get, "HTTP/1.0 200 OK\r\nX-A: b\r\n\r\nhello", "HTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\nhello<end>\r\n"},
		{"HTTP/1.0 with a length", get, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"},
		{"upgrade required", get, "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"},
		{"of the connection", get, "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"},
		{"a sidecar's fields", get, "HTTP/1.1 200 OK\r\nX-Tunmesh-Proxy-Error: forged\r\nX-Tunmesh-Orig: 1.0\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"},
		{"the same length twice", get, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"},
		{"to HTTP/1.0", old, "HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.0 200 OK\r\nX-A: b\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"},
		{"to HTTP/1.0, chunks", old, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nhi"},
		{"to HTTP/1.0 that keeps alive", kept, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi"},
		{"to HTTP/1.0, without informational ones", old, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
		{"large field", get, "HTTP/1.1 200 OK\r\nX-Large: " + strings.Repeat("x", 40<<10) + "\r\nContent-Length: 0\r\n\r\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a.set(tt.sent)
			got := p.ask(t, port, tt.request)
			want := tt.got
			if want == "" {
				method, _, _ := strings.Cut(tt.request, " ")
				var err error
				if want, err = readMessage(bufio.NewReader(strings.NewReader(tt.sent)), method); err != nil {
					t.Fatal(err)
				}
			}
			if got != want {
				t.Errorf("the client got\n%.2000q\nwant\n%.2000q", got, want)
			}
		})
	}
}

// testPipelining: requests that are sent at once are answered in order, large
// and small bodies in turn, and the connection goes on.
func testPipelining(t *testing.T, p *pair) {
	port := p.port()
	a := &app{}
	a.set(plainAnswer)
	go a.serve(p.listen(t, port))
	c, err := p.dial(t.Context(), p.at(port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	const n = 200
	var all bytes.Buffer
	for i := range n {
		body := strings.Repeat("x", i*i%5000)
		fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", i, len(body), body)
	}
	go func() { _, _ = c.Write(all.Bytes()) }()
	r := bufio.NewReader(c)
	for i := range n {
		if m, err := readMessage(r, "POST"); err != nil || m != plainAnswer {
			t.Fatalf("answer %d: %q, %v", i, m, err)
		}
	}
	heard := a.got()
	if len(heard) != n {
		t.Fatalf("the app heard %d requests, want %d", len(heard), n)
	}
	for i, m := range heard {
		if !strings.HasPrefix(m, fmt.Sprintf("POST /%d HTTP/1.1\r\n", i)) {
			t.Fatalf("request %d is %.40q", i, m)
		}
	}
}
