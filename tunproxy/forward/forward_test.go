package forward

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
)

// rig is client ⇄ a [pipe] b ⇄ server, each link buffering limit bytes.
type rig struct {
	loop           *aiotest.Loop
	client, server *aiotest.Conn
	a, b           *aiotest.Conn
	pipe           *Pipe
	ended          bool
	err            error
	ab, ba         int
}

func (r *rig) Forwarded(fromA bool, n int) {
	if fromA {
		r.ab += n
	} else {
		r.ba += n
	}
}

func newRig(limit int, wrap func(aio.Conn) aio.Conn) *rig {
	r := &rig{loop: aiotest.NewLoop()}
	r.client, r.a = aiotest.Pipe(r.loop, limit)
	r.b, r.server = aiotest.Pipe(r.loop, limit)
	a := aio.Conn(r.a)
	if wrap != nil {
		a = wrap(a)
	}
	r.pipe = Join(a, r.b, Config{
		Scratch: make([]byte, 64),
		Meter:   r,
		Done: func(err error) {
			if r.ended {
				panic("Done called twice")
			}
			r.ended, r.err = true, err
		},
	})
	return r
}

func TestBytesAndHalfCloseCrossBothWays(t *testing.T) {
	r := newRig(0, nil)
	r.client.Put([]byte("question"))
	if err := r.client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	r.loop.Run(t)
	if got := r.server.Take(); string(got) != "question" {
		t.Fatalf("server got %q", got)
	}
	if !r.server.EOF() {
		t.Fatal("the client's FIN did not arrive")
	}
	if r.ended {
		t.Fatal("the pipe ended at the first FIN")
	}
	r.server.Put([]byte("a late answer"))
	r.server.Close()
	r.loop.Run(t)
	if got := r.client.Take(); string(got) != "a late answer" {
		t.Fatalf("client got %q", got)
	}
	if !r.client.EOF() || !r.ended || r.err != nil {
		t.Fatalf("EOF %v, ended %v, err %v", r.client.EOF(), r.ended, r.err)
	}
	if r.ab != len("question") || r.ba != len("a late answer") {
		t.Fatalf("metered %d and %d", r.ab, r.ba)
	}
	if !r.a.IsClosed() || !r.b.IsClosed() {
		t.Fatal("ends left open")
	}
}

func TestResetCrosses(t *testing.T) {
	for _, fromClient := range []bool{true, false} {
		r := newRig(0, nil)
		r.loop.Run(t)
		from, to := r.client, r.server
		if !fromClient {
			from, to = to, from
		}
		from.Reset()
		r.loop.Run(t)
		if !to.WasReset() {
			t.Fatalf("fromClient=%v: the reset did not cross", fromClient)
		}
		if !r.ended || !errors.Is(r.err, aio.ErrReset) {
			t.Fatalf("ended %v, err %v", r.ended, r.err)
		}
	}
}

func TestResetAfterHalfCloseCrosses(t *testing.T) {
	r := newRig(0, nil)
	_ = r.client.CloseWrite()
	r.loop.Run(t)
	r.server.Reset()
	r.loop.Run(t)
	if !r.client.WasReset() || !errors.Is(r.err, aio.ErrReset) {
		t.Fatalf("client reset %v, err %v", r.client.WasReset(), r.err)
	}
}

func TestAbortResetsBothEnds(t *testing.T) {
	r := newRig(0, nil)
	r.loop.Run(t)
	r.pipe.Abort()
	r.pipe.Abort()
	r.loop.Run(t)
	if !r.client.WasReset() || !r.server.WasReset() || !errors.Is(r.err, ErrAborted) {
		t.Fatalf("client %v, server %v, err %v", r.client.WasReset(), r.server.WasReset(), r.err)
	}
}

// A slow reader stops its sender: what is under way stays bounded.
func TestBackpressure(t *testing.T) {
	const limit = 100
	r := newRig(limit, nil)
	sent := 0
	for range 100 {
		n, err := r.client.Write(make([]byte, 50))
		sent += n
		r.loop.Run(t)
		if err != nil {
			break
		}
	}
	// client→a holds limit, the pipe at most a scratch, b→server limit.
	if sent > 2*limit+64 {
		t.Fatalf("%d bytes under way, want at most %d", sent, 2*limit+64)
	}
	got := 0
	for range 100 {
		got += len(r.server.Take())
		r.loop.Run(t)
	}
	if got != sent {
		t.Fatalf("got %d of %d bytes", got, sent)
	}
	if r.pipe.ab.left != nil {
		t.Fatal("an idle pipe holds a buffer")
	}
}

// Random sizes and stops in both directions; every byte arrives in order and
// the FINs after them.
func TestRandomTransfer(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		r := newRig(1+rnd.IntN(200), nil)
		up, down := randomBytes(rnd, 5000), randomBytes(rnd, 5000)
		var gotUp, gotDown []byte
		upLeft, downLeft := up, down
		for range 100_000 {
			if len(upLeft) > 0 {
				n, _ := r.client.Write(upLeft[:1+rnd.IntN(len(upLeft))])
				if upLeft = upLeft[n:]; len(upLeft) == 0 {
					_ = r.client.CloseWrite()
				}
			}
			if len(downLeft) > 0 {
				n, _ := r.server.Write(downLeft[:1+rnd.IntN(len(downLeft))])
				if downLeft = downLeft[n:]; len(downLeft) == 0 {
					_ = r.server.CloseWrite()
				}
			}
			if rnd.IntN(3) == 0 {
				gotUp = append(gotUp, r.server.Take()...)
			}
			if rnd.IntN(3) == 0 {
				gotDown = append(gotDown, r.client.Take()...)
			}
			r.loop.Pass()
			if r.ended && r.server.EOF() && r.client.EOF() {
				break
			}
		}
		if !r.ended || r.err != nil || !bytes.Equal(gotUp, up) || !bytes.Equal(gotDown, down) {
			t.Fatalf("seed %d: ended %v, err %v, %d of %d up, %d of %d down", seed, r.ended, r.err, len(gotUp), len(up), len(gotDown), len(down))
		}
	}
}

// copying is an end with a fast path of its own.
type copying struct {
	aio.Conn
	calls int
	known bool
}

func (c *copying) CopyTo(dst aio.Conn) (int64, error, bool) { //nolint:revive // see aio.Copier
	c.calls++
	if !c.known {
		return 0, nil, false
	}
	var total int64
	for {
		b := make([]byte, 10)
		n, err := c.Peek(b)
		if n == 0 {
			return total, err, true
		}
		w, werr := dst.Write(b[:n])
		_, _ = c.Read(b[:w])
		total += int64(w)
		if werr != nil {
			return total, werr, true
		}
	}
}

func TestCopierIsUsedWhenItKnowsTheOther(t *testing.T) {
	for _, known := range []bool{true, false} {
		var c *copying
		r := newRig(30, func(a aio.Conn) aio.Conn {
			c = &copying{Conn: a, known: known}
			return c
		})
		var got []byte
		want := bytes.Repeat([]byte("0123456789"), 50)
		left := want
		for range 1000 {
			n, _ := r.client.Write(left)
			if left = left[n:]; len(left) == 0 {
				_ = r.client.CloseWrite()
			}
			r.loop.Run(t)
			got = append(got, r.server.Take()...)
		}
		if !bytes.Equal(got, want) || !r.server.EOF() {
			t.Fatalf("known=%v: got %d of %d bytes, EOF %v", known, len(got), len(want), r.server.EOF())
		}
		if !known && c.calls != 1 {
			t.Fatalf("a copier that does not know its peer was asked %d times", c.calls)
		}
	}
}

// truncated ends without an orderly close, as TLS without close_notify does.
type truncated struct{ aio.Conn }

func (c truncated) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func TestTruncationIsAReset(t *testing.T) {
	r := newRig(0, func(a aio.Conn) aio.Conn { return truncated{a} })
	r.client.Put([]byte("half a"))
	r.client.Close()
	r.loop.Run(t)
	if !r.server.WasReset() || !errors.Is(r.err, io.ErrUnexpectedEOF) {
		t.Fatalf("server reset %v, err %v", r.server.WasReset(), r.err)
	}
}

func randomBytes(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// roomy is a connection that knows its room.
type roomy struct {
	*aiotest.Conn
	room int
}

func (r *roomy) Room() int { return r.room }
func (r *roomy) Write(p []byte) (int, error) {
	r.room -= len(p)
	return r.Conn.Write(p)
}

// What the destination has no room for stays where it is.
func TestNothingIsReadWithoutRoom(t *testing.T) {
	loop := aiotest.NewLoop()
	src, near := aiotest.Pipe(loop, 0)
	far, dst := aiotest.Pipe(loop, 0)
	d := &roomy{Conn: far, room: 10}
	p := Join(near, d, Config{Scratch: make([]byte, 1<<10)})
	src.Put(make([]byte, 100))
	loop.Run(t)
	if in, out := len(near.Peeked()), len(dst.Peeked()); in != 90 || out != 10 {
		t.Errorf("%d bytes went and %d are left of 100, with room for 10", out, in)
	}
	d.room = 50
	p.ba.Writable(d)
	if in, out := len(near.Peeked()), len(dst.Peeked()); in != 40 || out != 60 {
		t.Errorf("%d bytes went and %d are left of 100, with room for 50 more", out, in)
	}
}
