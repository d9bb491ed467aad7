package exchange_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/tunproxy/exchange"
	"github.com/tunmesh/tunmesh/tunproxy/h1"
	"github.com/tunmesh/tunmesh/tunproxy/h2"
	"github.com/tunmesh/tunmesh/tunproxy/orig"
)

// pair is the HTTP of two sidecars on one loop, without TLS and TCP:
//
//	client ─HTTP/1─▶ near ─HTTP/2─▶ far ─HTTP/1─▶ app
type pair struct {
	t      *testing.T
	loop   *aiotest.Loop
	client *aiotest.Conn
	hop    *h2.Client
	apps   []*appConn
	to     *h1.Client // to the last app connection
}

// appConn is a connection to the app, which answers each whole request.
type appConn struct {
	conn    *aiotest.Conn
	all     string
	read    int
	heard   []strictRequest
	refused error // what is no request
}

func newPair(t *testing.T, mem *h2.Memory, buffers *h1.Buffers) *pair {
	p := &pair{t: t, loop: aiotest.NewLoop()}
	p.loop.Advance(t, time.Second)
	far, near := aiotest.Pipe(p.loop, 1<<20)
	names := orig.NewNames()
	farSide := &exchange.Config{Loop: p.loop, Opener: farOpener{p}, Translate: orig.FromSidecar{Names: names}, RefuseUndelivered: true}
	h2.NewServer(far, h2.Config{Memory: mem, Keepalive: h2.Keepalive{Interval: -1}}, farSide.Serve)
	p.hop = h2.NewClient(near, h2.Config{Memory: mem, Keepalive: h2.Keepalive{Interval: -1}})
	nearSide := &exchange.Config{Loop: p.loop, Opener: nearOpener{p, orig.ToSidecar{Names: names}}, Translate: orig.FromClient{}}
	var in *aiotest.Conn
	p.client, in = aiotest.Pipe(p.loop, 1<<20)
	h1.NewServer(in, h1.Config{Buffers: buffers}, nearSide.Serve)
	return p
}

type nobody struct{}

func (nobody) Ended(exchange.Outcome, time.Duration) {}

type nearOpener struct {
	p  *pair
	to exchange.Translator
}

func (o nearOpener) Open(x *exchange.Exchange) {
	s, err := o.p.hop.OpenStream()
	if h := x.Request(); err != nil || h.Upgrade || h.Method == "CONNECT" || x.Attempts() > 0 {
		x.Fail(exchange.ErrNoEndpoint) // bytes have a hop of their own
		return
	}
	x.Opened(exchange.Upstream{Stream: s, Endpoint: nobody{}, Translate: o.to})
}
func (nearOpener) Cancel(*exchange.Exchange) {}

type farOpener struct{ p *pair }

func (o farOpener) Open(x *exchange.Exchange) {
	p := o.p
	if p.to == nil || !p.to.Idle() {
		a, b := aiotest.Pipe(p.loop, 1<<20)
		p.apps = append(p.apps, &appConn{conn: b})
		p.to = h1.NewClient(a, h1.Config{})
	}
	s, err := p.to.OpenStream()
	if err != nil {
		p.t.Fatal(err)
	}
	x.Opened(exchange.Upstream{Stream: s, Endpoint: nobody{}, Translate: orig.ToServer{}})
}
func (farOpener) Cancel(*exchange.Exchange) {}

// run lets everybody act until nothing happens any more.
func (p *pair) run() {
	for again := true; again; {
		p.loop.Run(p.t)
		again = false
		for _, a := range p.apps {
			again = a.act() || again
		}
		p.client.Take()
	}
}

// act answers the requests that are whole; it reports whether there was one.
func (a *appConn) act() bool {
	if a.conn.WasReset() {
		return false
	}
	a.all += string(a.conn.Take())
	n := 0
	for a.refused == nil && a.read < len(a.all) {
		r, k, err := readStrict(a.all[a.read:])
		if errors.Is(err, errShort) {
			break
		}
		if a.refused = err; err == nil {
			a.read += k
			a.heard = append(a.heard, r)
			a.conn.Put([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
			n++
		}
	}
	return n > 0
}

// TestHop: the fuzzer's pair of sidecars lets requests through, one for one.
func TestHop(t *testing.T) {
	const in = "POST /1 HTTP/1.1\r\nX-A: b\r\nTransfer-Encoding: chunked\r\nHOST: a\r\n\r\n3\r\nabc\r\n0\r\nt: u\r\n\r\n" +
		"GET http://b/2 HTTP/1.1\r\nHost: b\r\n\r\nGET /3 HTTP/1.0\r\n\r\n"
	p := newPair(t, h2.NewMemory(), h1.NewBuffers())
	p.client.Put([]byte(in))
	p.run()
	all := ""
	for _, a := range p.apps {
		all += a.all
	}
	if all != in || p.client.WasReset() {
		t.Errorf("the app got\n%q\nwant\n%q", all, in)
	}
	p.judge(in)
}

// FuzzHop gives bytes to a pair of sidecars, in two pieces. Whatever reaches the
// app is, for a strict parser and for Go's, the same requests that the strict
// parser finds in what the client sent; none more, none with another end.
func FuzzHop(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /a?b HTTP/1.1\r\nHOST: a\r\nx-A: 1\r\nX-a: 2\r\nConnection: x-a, close\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n",
		"POST / HTTP/1.1\r\nA: b\r\nTransfer-Encoding: chunked\r\nHost: a\r\n\r\n3;x=\"y\"\r\nabc\r\n0\r\nT: u\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcPOST / HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n",
		"POST http://b:80?x HTTP/1.0\r\nHost: a\r\nContent-Length: 003\r\nConnection: keep-alive\r\n\r\nabcGET / HTTP/1.0\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: [::1]\r\nTE: trailers, gzip\r\nExpect: 100-continue\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nX-Tunmesh-Orig: 1.1;c\r\nTransfer-Encoding:\tchunked \r\n\r\nA\r\n0123456789\r\n00\r\nContent-Length: 1\r\n\r\n",
		"\r\n\r\nGET /\xe4 HTTP/1.1\r\nhost:a\r\nX: \xff\t \r\n\r\n",
	} {
		f.Add([]byte(s), uint16(len(s)/2))
	}
	mem, buffers := h2.NewMemory(), h1.NewBuffers()
	f.Fuzz(func(t *testing.T, in []byte, cut uint16) {
		if len(in) > 32<<10 {
			return
		}
		p := newPair(t, mem, buffers)
		n := min(int(cut), len(in))
		p.client.Put(in[:n])
		p.run()
		if !p.client.WasReset() && !p.client.EOF() {
			p.client.Put(in[n:])
			p.run()
		}
		_ = p.client.CloseWrite()
		p.run()
		p.judge(string(in))
	})
}

// judge compares what the app heard with what the client said.
func (p *pair) judge(in string) {
	var said []strictRequest
	rest := in
	for err := error(nil); err == nil; {
		var r strictRequest
		var n int
		for strings.HasPrefix(rest, "\r\n") {
			rest = rest[2:]
		}
		if r, n, err = readStrict(rest); err == nil {
			said = append(said, r)
			rest = rest[n:]
		}
	}
	k := 0
	for _, a := range p.apps {
		if a.refused != nil {
			p.fatalf(in, "the app got %q: %v", a.all, a.refused)
		}
		for _, r := range a.heard {
			if k == len(said) {
				p.fatalf(in, "the app got %d requests or more, the client sent %d:\n%q", k+1, len(said), a.all)
			}
			if why := differ(said[k], r); why != "" {
				p.fatalf(in, "request %d: %s: sent\n%+v\ngot\n%+v", k, why, said[k], r)
			}
			k++
		}
		p.judgeByGo(a, in)
	}
}

func (p *pair) fatalf(in, format string, args ...any) {
	p.t.Helper()
	p.t.Fatalf(format+"\nof %q", append(args, in)...)
}

// judgeByGo compares how Go reads the requests on one connection.
func (p *pair) judgeByGo(a *appConn, in string) {
	r := bufio.NewReader(strings.NewReader(a.all[:a.read]))
	for i, want := range a.heard {
		got, err := http.ReadRequest(r)
		if err != nil {
			if s := err.Error(); strings.Contains(s, "invalid URL escape") || strings.Contains(s, "parse ") {
				return // Go reads targets as URLs; where the request ends is not in doubt
			}
			p.fatalf(in, "Go can't read request %d of %q: %v", i, a.all, err)
		}
		body, err := io.ReadAll(got.Body)
		if err != nil || string(body) != want.body || got.Method != want.method || got.RequestURI != want.target || got.Proto != want.version {
			p.fatalf(in, "Go reads %s %s %s %q (%v), not %+v", got.Method, got.RequestURI, got.Proto, body, err, want)
		}
	}
	if rest, _ := io.ReadAll(r); len(rest) > 0 {
		p.fatalf(in, "Go leaves %q of %q", rest, a.all)
	}
}

// differ says what is lost or changed on the way, but for what docs/design/0002
// leaves behind.
func differ(sent, got strictRequest) string {
	version := sent.version
	if version != "HTTP/1.0" {
		version = "HTTP/1.1"
	}
	nominated := map[string]bool{}
	for _, f := range sent.fields {
		if strings.EqualFold(f.name, "connection") {
			for token := range strings.SplitSeq(strings.ToLower(f.value), ",") {
				nominated[strings.Trim(token, " \t")] = true
			}
		}
	}
	absolute := sent.target[0] != '/' && sent.target != "*"
	switch {
	case sent.method != got.method:
		return "method"
	case got.version != version:
		return "version"
	case sent.body != got.body:
		return "body"
	case !absolute && sent.target != got.target:
		return "target"
	case absolute && !strings.HasPrefix(got.target, "http"):
		return "form"
	}
	if a, b := endToEnd(sent.fields, nominated, absolute), endToEnd(got.fields, nominated, absolute); a != b {
		return fmt.Sprintf("fields %q became %q", a, b)
	}
	return trailersDiffer(sent.trailers, got.trailers)
}

// endToEnd lists the fields that are not of one connection only.
func endToEnd(fields []strictField, nominated map[string]bool, absolute bool) string {
	var b strings.Builder
	for _, f := range fields {
		name := strings.ToLower(f.name)
		switch name {
		case "connection", "keep-alive", "proxy-connection", "te", "upgrade", "http2-settings":
			continue
		case "content-length":
			f.value = strings.TrimLeft(f.value[:len(f.value)-1], "0") + f.value[len(f.value)-1:]
		case "transfer-encoding":
			f.value = "chunked"
		case "host":
			if absolute || f.value == "" {
				continue
			}
		case "content-type": // can't be nominated away, nor can the ones above
		default:
			if nominated[name] || ours(name) {
				continue
			}
		}
		b.WriteString(f.name + ": " + f.value + "\n")
	}
	return b.String()
}

func ours(name string) bool {
	return strings.HasPrefix(strings.ReplaceAll(name, "_", "-"), hop.FieldPrefix)
}

// trailersDiffer compares trailers, whose spelling does not travel.
func trailersDiffer(sent, got []strictField) string {
	list := func(fields []strictField) string {
		var b strings.Builder
		for _, f := range fields {
			if name := strings.ToLower(f.name); !ours(name) {
				b.WriteString(name + ": " + f.value + "\n")
			}
		}
		return b.String()
	}
	if a, b := list(sent), list(got); a != b {
		return fmt.Sprintf("trailers %q became %q", a, b)
	}
	return ""
}
