package tunproxy

import (
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/detect"
)

type sniffRig struct {
	loop           *aiotest.Loop
	client, server *aiotest.Conn // the far ends
	s              *sniffer
	got            []detect.Kind
}

func newSniffRig() *sniffRig {
	r := &sniffRig{loop: aiotest.NewLoop()}
	var c, u *aiotest.Conn
	r.client, c = aiotest.Pipe(r.loop, 0)
	u, r.server = aiotest.Pipe(r.loop, 0)
	r.s = &sniffer{
		loop: r.loop, scratch: make([]byte, detect.Limit), client: c, server: u,
		done: func(d detect.Result) { r.got = append(r.got, d.Kind) },
	}
	r.s.start()
	return r
}

func (r *sniffRig) want(t *testing.T, kinds ...detect.Kind) {
	t.Helper()
	r.loop.Run(t)
	if len(r.got) != len(kinds) || len(kinds) == 1 && r.got[0] != kinds[0] {
		t.Fatalf("decided %v, want %v", r.got, kinds)
	}
}

func TestFirstSpeakerDecides(t *testing.T) {
	r := newSniffRig()
	r.client.Put([]byte("GET / HTTP/1.1\r\n"))
	r.want(t, detect.HTTP1)

	r = newSniffRig()
	r.server.Put([]byte("220 mail ready\r\n"))
	r.want(t, detect.Opaque)

	r = newSniffRig()
	r.client.Put([]byte{0, 1, 2})
	r.want(t, detect.Opaque)

	r = newSniffRig()
	r.server.Reset()
	r.want(t, detect.Opaque)

	r = newSniffRig()
	r.client.Close()
	r.want(t, detect.Opaque)
}

func TestASilentClientIsWaitedFor(t *testing.T) {
	r := newSniffRig()
	r.loop.Advance(t, time.Hour)
	r.want(t)
	r.client.Put([]byte("GET / HTTP/1.1\r\n"))
	r.want(t, detect.HTTP1)
}

// said expects what the server has received since the last time.
func (r *sniffRig) said(t *testing.T, want string) {
	t.Helper()
	if got := string(r.server.Take()); got != want {
		t.Fatalf("the server has %q, want %q", got, want)
	}
}

// unread expects what is left in the client's connection.
func (r *sniffRig) unread(t *testing.T, want string) {
	t.Helper()
	b := make([]byte, detect.Limit)
	n, _ := r.s.client.Peek(b)
	if got := string(b[:n]); got != want {
		t.Fatalf("left of the client's bytes: %q, want %q", got, want)
	}
}

// A client that waits for an answer to what may be a part of a request gets it.
func TestUndecidedBytesAreShownToTheServer(t *testing.T) {
	for _, word := range []string{"abc", "GET", "GET /x", "\r\n"} {
		r := newSniffRig()
		r.client.Put([]byte(word))
		r.want(t)
		r.said(t, "")
		r.loop.Advance(t, silence)
		r.said(t, word)
		r.want(t)
		r.server.Put([]byte("?"))
		r.want(t, detect.Opaque)
		r.unread(t, "")
	}
}

// Nothing that the server has is written to it again.
func TestWhatTurnsOutToBeBytesGoesOn(t *testing.T) {
	r := newSniffRig()
	r.client.Put([]byte("abc"))
	r.loop.Advance(t, silence)
	r.client.Put([]byte("def"))
	r.want(t)
	r.said(t, "abcdef")
	r.client.Put([]byte("\n"))
	r.want(t, detect.Opaque)
	r.said(t, "")
	r.unread(t, "\n")
}

func TestASlowRequestIsStillOne(t *testing.T) {
	const line = "GET /a/path/of/some/length HTTP/1.1\r\n"
	decides := strings.Index(line, "/1.1") + len("/1")
	r := newSniffRig()
	for i := range decides {
		r.want(t)
		r.client.Put([]byte(line[i : i+1]))
		r.loop.Advance(t, time.Second)
	}
	r.want(t, detect.HTTP1)
	r.said(t, line[:decides-1]) // never what it could act on
	r.unread(t, line[:decides])
}

// The server's connection may become ready after the client's silence.
func TestUndecidedBytesWaitForTheServer(t *testing.T) {
	r := newSniffRig()
	server := r.s.server
	r.s.server = nil
	server.SetHandler(nil)
	r.client.Put([]byte("abc"))
	r.loop.Advance(t, time.Second)
	r.said(t, "")
	r.s.listen(server)
	r.said(t, "abc")
	r.want(t)
}

func TestUndecidedBytesMayNotAllFit(t *testing.T) {
	r := newSniffRig()
	u, far := aiotest.Pipe(r.loop, 2)
	r.s.listen(u)
	r.client.Put([]byte("abcde"))
	r.loop.Advance(t, time.Second)
	got := ""
	for range 5 {
		got += string(far.Take())
		r.loop.Run(t)
	}
	if got != "abcde" {
		t.Fatalf("the server has %q", got)
	}
	r.client.Put([]byte("\n"))
	r.want(t, detect.Opaque)
	r.unread(t, "\n")
}

// A hello, and what policy keeps from the app, is shown to nobody.
func TestUndecidedBytesThatStayWhereTheyAre(t *testing.T) {
	hello := newSniffRig()
	hello.client.Put([]byte("\x16\x03\x01\x02"))
	denied := newSniffRig()
	denied.s.mayShow = func() bool { return false }
	denied.client.Put([]byte("GET /long"))
	for _, r := range []*sniffRig{hello, denied} {
		r.loop.Advance(t, detectTimeout-time.Second)
		r.want(t)
		r.loop.Advance(t, time.Second)
		r.want(t, detect.Opaque)
		r.said(t, "")
	}
}

func TestAnEndedFragmentBecomesOpaqueSoon(t *testing.T) {
	r := newSniffRig()
	r.client.Put([]byte("GE"))
	r.want(t)
	r.client.Close()
	r.want(t)
	r.loop.Advance(t, 2*finGrace)
	r.want(t, detect.Opaque)

	r = newSniffRig() // and one that the server has
	r.client.Put([]byte("GE"))
	r.loop.Advance(t, time.Second)
	_ = r.client.CloseWrite()
	r.want(t)
	r.loop.Advance(t, 2*finGrace)
	r.want(t, detect.Opaque)
	r.said(t, "GE")
	r.unread(t, "")
}

func TestTheServerMayBeHeldBack(t *testing.T) {
	r := newSniffRig()
	asked := 0
	r.s.unsaid = func(bool) bool { asked++; return false }
	r.server.Put([]byte("220 mail ready\r\n"))
	r.want(t)
	if asked != 1 {
		t.Fatalf("asked %d times", asked)
	}
	r.client.Put([]byte("EHLO me\r\n"))
	r.want(t, detect.Opaque)
}

// A client that spoke is no sidecar, whatever it may be about to say: the server
// that was held back is let go.
func TestAServerIsNotHeldBackFromAClientThatSpoke(t *testing.T) {
	r := newSniffRig()
	r.s.unsaid = func(bool) bool { return false }
	r.server.Put([]byte("220 mail ready\r\n"))
	r.want(t)
	r.client.Put([]byte("EHLO"))
	r.want(t, detect.Opaque)

	r = newSniffRig()
	r.s.unsaid = func(bool) bool { return false }
	r.client.Put([]byte("EHLO"))
	r.want(t)
	r.server.Put([]byte("220 mail ready\r\n"))
	r.want(t, detect.Opaque)

	r = newSniffRig()
	r.s.unsaid = func(bool) bool { return false }
	r.client.Put([]byte("\x16\x03"))
	r.want(t)
	r.server.Put([]byte("220 mail ready\r\n"))
	r.want(t)
}

func TestAClientThatEndsUnheardMayBeHeldBack(t *testing.T) {
	r := newSniffRig()
	ended := 0
	r.s.unsaid = func(e bool) bool {
		if e {
			ended++
		}
		return false
	}
	r.server.Put([]byte("220 mail ready\r\n"))
	_ = r.client.CloseWrite()
	r.want(t)
	if ended == 0 {
		t.Fatal("nobody was asked about a client that ended without a byte")
	}
}
