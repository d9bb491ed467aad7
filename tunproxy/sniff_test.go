package tunproxy

import (
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

func TestASlowClientBecomesOpaque(t *testing.T) {
	r := newSniffRig()
	for i := range 9 {
		r.client.Put([]byte("GET /long"[i : i+1]))
		r.loop.Advance(t, time.Second)
	}
	r.want(t)
	r.loop.Advance(t, 2*time.Second)
	r.want(t, detect.Opaque)
}

func TestAnEndedFragmentBecomesOpaqueSoon(t *testing.T) {
	r := newSniffRig()
	r.client.Put([]byte("GE"))
	r.want(t)
	r.client.Close()
	r.want(t)
	r.loop.Advance(t, 2*finGrace)
	r.want(t, detect.Opaque)
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
