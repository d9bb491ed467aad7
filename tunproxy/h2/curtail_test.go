package h2

import (
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// TestCurtailed: clients that see an early response end their request short of its
// Content-Length. They still get the whole response, and the receiver never takes
// what came for all of it.
func TestCurtailed(t *testing.T) {
	refused := &message.Head{Status: 413, ContentLength: 3, Fields: []message.Field{{Name: "content-length", Value: "3"}}}
	const head = "HEADERS 1 status=413 content-length=3"
	begin := func(t *testing.T) *rawPeer {
		p := rawClient(t, quiet(), nil)
		p.headers(1, false, append(postFields[:8:8], "content-length", "1000")...)
		p.send(frame.AppendData(nil, 1, make([]byte, 300), false))
		return p
	}
	short := func(p *rawPeer) { p.send(frame.AppendData(nil, 1, []byte("x"), true)) }
	over := func(t *testing.T, p *rawPeer) {
		t.Helper()
		r := p.got[0]
		if r.ended || !r.aborted || r.code != message.NoError || r.err != nil || r.body.Len() != 300 {
			t.Errorf("receiver: ended %v, aborted %v with %v %v, %d bytes", r.ended, r.aborted, r.code, r.err, r.body.Len())
		}
		if n := p.server.streams.n; n != 0 || p.count.Breaches.Load() != 0 {
			t.Errorf("%d streams, %d breaches", n, p.count.Breaches.Load())
		}
	}
	t.Run("between head and body", func(t *testing.T) {
		p := begin(t)
		s := p.server.streams.get(1)
		s.SendHead(refused, false)
		p.want(head)
		short(p)
		p.want()
		s.SendData([]byte("no\n"), true)
		p.want("DATA 1 3 end")
		over(t, p)
		p.send(frame.AppendData(nil, 1, []byte("x"), true))
		p.want("GOAWAY 0 last=1 code=5 DATA frame on closed stream 1")
	})
	t.Run("by trailers", func(t *testing.T) {
		p := begin(t)
		s := p.server.streams.get(1)
		s.SendHead(refused, false)
		p.headers(1, true, "a", "b")
		s.SendTrailers([]message.Field{{Name: "c", Value: "d"}})
		p.want(head, "HEADERS 1 c=d end")
		over(t, p)
	})
	t.Run("after the response", func(t *testing.T) {
		p := begin(t)
		s := p.server.streams.get(1)
		s.SendHead(refused, false)
		s.SendData([]byte("no\n"), true)
		p.want(head, "DATA 1 3 end")
		short(p) // what it wants it has
		p.want("RST_STREAM 1 1")
	})
	t.Run("the response never ends", func(t *testing.T) {
		p := begin(t)
		p.server.streams.get(1).SendHead(refused, false)
		short(p)
		p.loop.Advance(t, 29*time.Second)
		p.want(head)
		p.loop.Advance(t, 2*time.Second)
		p.want("RST_STREAM 1 1")
		if r := p.got[0]; !r.aborted || r.err == nil {
			t.Errorf("%+v", r)
		}
	})
	t.Run("the stream ends otherwise", func(t *testing.T) {
		p := begin(t)
		s := p.server.streams.get(1)
		s.SendHead(refused, false)
		short(p)
		s.Abort(message.Cancel)
		p.loop.Advance(t, time.Hour)
		p.want(head, "RST_STREAM 1 8")
	})
	t.Run("more than it said", func(t *testing.T) {
		p := begin(t)
		p.server.streams.get(1).SendHead(refused, false)
		p.send(frame.AppendData(nil, 1, make([]byte, 1000), true))
		p.want(head, "RST_STREAM 1 1")
	})
}
