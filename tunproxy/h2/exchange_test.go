package h2

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/tunmesh/tunmesh/tunproxy/memory"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

func TestExchange(t *testing.T) {
	w := newWorld(t, Config{}, Config{}, 0)
	w.serve = func(s message.Stream) *recorder {
		return &recorder{onEnd: func(s message.Stream) {
			s.SendHead(&message.Head{Status: 103, Fields: []message.Field{{Name: "link", Value: "</a>"}}}, false)
			s.SendHead(&message.Head{Status: 200, Fields: []message.Field{{Name: "Content-Type", Value: "text/plain"}, {Name: "Connection", Value: "close"}}}, false)
			s.SendData([]byte("hello"), false)
			s.SendTrailers([]message.Field{{Name: "grpc-status", Value: "0"}})
		}}
	}
	s, r := w.open()
	h := post("/a?b=c")
	h.Fields = []message.Field{{Name: "X-Case", Value: "Kept"}, {Name: "te", Value: "trailers"}, {Name: "cookie", Value: "short", Sensitive: true}}
	s.SendHead(h, false)
	s.SendData([]byte("ping"), false)
	s.SendTrailers([]message.Field{{Name: "x-sum", Value: "1"}})
	if s.Delivered() {
		t.Error("delivered before anything was written")
	}
	w.run()
	if !s.Delivered() {
		t.Error("not delivered")
	}
	in := w.received[0]
	got := in.heads[0]
	if got.Method != "POST" || got.Path != "/a?b=c" || got.Authority != "emoji:8080" || got.Scheme != "http" || got.ContentLength != -1 {
		t.Errorf("request %+v", got)
	}
	if text(got.Fields) != "x-case: Kept\nte: trailers\ncookie: short" || !got.Fields[2].Sensitive || got.Fields[0].Sensitive {
		t.Errorf("fields %q", text(got.Fields))
	}
	if in.body.String() != "ping" || text(in.trailers) != "x-sum: 1" || !in.ended {
		t.Errorf("body %q, trailers %q", in.body.String(), text(in.trailers))
	}
	if len(r.heads) != 2 || r.heads[0].Status != 103 || r.heads[1].Status != 200 || text(r.heads[1].Fields) != "content-type: text/plain" {
		t.Errorf("response heads %+v", r.heads)
	}
	if r.body.String() != "hello" || text(r.trailers) != "grpc-status: 0" || r.aborted || r.drained != 4 || in.drained != 5 {
		t.Errorf("response %+v", r)
	}
	if st := w.client.Stats(); st.Open != 0 || st.Total != 1 {
		t.Errorf("%+v", st)
	}
	if st := w.server.Stats(); st.Open != 0 || st.Total != 1 {
		t.Errorf("%+v", st)
	}
}

// TestEndings: each way to end either direction.
func TestEndings(t *testing.T) {
	for _, end := range []string{"head", "data", "empty data", "trailers", "no trailers"} {
		t.Run(end, func(t *testing.T) {
			send := func(s message.Stream, h *message.Head) {
				s.SendHead(h, end == "head")
				switch end {
				case "data":
					s.SendData([]byte("x"), true)
				case "empty data":
					s.SendData([]byte("x"), false)
					s.SendData(nil, true)
				case "trailers":
					s.SendTrailers([]message.Field{{Name: "a", Value: "b"}})
				case "no trailers":
					s.SendTrailers(nil)
				}
				s.SendData([]byte("after the end"), true) // does nothing
				s.SendTrailers([]message.Field{{Name: "after", Value: "the end"}})
			}
			w := newWorld(t, Config{}, Config{}, 0)
			w.serve = func(message.Stream) *recorder {
				return &recorder{onEnd: func(s message.Stream) { send(s, &message.Head{Status: 200}) }}
			}
			s, r := w.open()
			send(s, post("/"))
			w.run()
			for _, r := range []*recorder{r, w.received[0]} {
				want := ""
				if end == "data" || end == "empty data" {
					want = "x"
				}
				if !r.ended || r.aborted || r.body.String() != want || len(r.trailers) > 0 != (end == "trailers") {
					t.Errorf("%+v", r)
				}
			}
			if w.client.Stats().Open != 0 || w.server.Stats().Open != 0 {
				t.Error("streams left over")
			}
		})
	}
}

// TestBulk sends much in both directions on many streams through a small pipe.
func TestBulk(t *testing.T) {
	w := newWorld(t, Config{}, Config{}, 5000)
	w.serve = func(s message.Stream) *recorder {
		r := echo(s)
		l := &relay{to: s}
		r.onData = func(s message.Stream, p []byte) { l.data(s, p) }
		r.onEnd = func(s message.Stream) { s.SendData(nil, true) }
		return r
	}
	const streams, size = 20, 1 << 20
	bodies := make([][]byte, streams)
	var got []*recorder
	for i := range bodies {
		bodies[i] = bytes.Repeat([]byte{byte(i), byte(i * 7), 3}, size/3)
		s, r := w.open()
		got = append(got, r)
		s.SendHead(post(fmt.Sprint("/", i)), false)
		left := bodies[i]
		for len(left) > 0 {
			n := min(len(left), 1+rand.IntN(50000))
			s.SendData(left[:n], n == len(left))
			left = left[n:]
		}
	}
	w.run()
	for i, r := range got {
		if !bytes.Equal(r.body.Bytes(), bodies[i]) || !r.ended {
			t.Errorf("stream %d: %d bytes of %d, ended %v, %v", i, r.body.Len(), len(bodies[i]), r.ended, r.err)
		}
		if r.drained != len(bodies[i]) {
			t.Errorf("stream %d: %d drained of %d", i, r.drained, len(bodies[i]))
		}
	}
	if c, s := w.client.Stats(), w.server.Stats(); c.Unread != 0 || s.Unread != 0 || c.Unsent != 0 || s.Unsent != 0 || s.Open != 0 {
		t.Errorf("%+v %+v", c, s)
	}
}

// relay gives credit when what it sent has gone.
type relay struct{ to message.Stream }

func (l *relay) data(s message.Stream, p []byte) {
	l.to.SendData(p, false)
	s.Consumed(len(p))
}

// TestSlowReceiver: who does not consume stops its own sender, at the bound of
// its stream, and nobody else.
func TestSlowReceiver(t *testing.T) {
	mem := NewMemory()
	mem.Bound = memory.NewBound(1 << 30) // the test's senders know no measure
	w := newWorld(t, Config{Memory: mem}, Config{}, 0)
	slow := true
	w.serve = func(message.Stream) *recorder { return &recorder{lazy: slow} }
	var stalled []message.Stream
	const n = 500
	for range n {
		s, _ := w.open()
		s.SendHead(post("/slow"), false)
		s.SendData(make([]byte, 200<<10), true)
		stalled = append(stalled, s)
		if w.client.Capacity() == 0 {
			w.run()
		}
	}
	w.run()
	for i, r := range w.received {
		if r.body.Len() != 65535 {
			t.Fatalf("stream %d got %d bytes", i, r.body.Len())
		}
	}
	slow = false
	fast, _ := w.open()
	fast.SendHead(post("/fast"), false)
	fast.SendData(make([]byte, 4<<20), true)
	w.run()
	if r := w.received[n]; r.body.Len() != 4<<20 || !r.ended {
		t.Errorf("the fast stream got %d bytes", r.body.Len())
	}
	// Consuming goes on where it stopped.
	w.received[0].lazy = false
	w.streams[0].Consumed(65535)
	w.run()
	if r := w.received[0]; r.body.Len() != 200<<10 {
		t.Errorf("the woken stream got %d bytes", r.body.Len())
	}
	// A reset gives back what was never consumed.
	for _, s := range stalled {
		s.Abort(message.Cancel)
	}
	w.run()
	if st := w.server.Stats(); st.Unread != 0 || st.Open != 1 { // fast has no response
		t.Errorf("%+v", st)
	}
}

func TestAborts(t *testing.T) {
	w := newWorld(t, Config{}, Config{}, 0)
	s, r := w.open()
	s.SendHead(post("/"), false)
	w.run()
	s.Abort(message.EnhanceYourCalm)
	s.SendData([]byte("nothing"), true)
	s.Abort(message.Cancel)
	w.run()
	if in := w.received[0]; !in.aborted || in.code != message.EnhanceYourCalm || in.err != nil || in.body.Len() > 0 {
		t.Errorf("%+v", in)
	}
	if r.aborted {
		t.Error("who aborts hears nothing")
	}

	s, r = w.open()
	s.SendHead(post("/"), false)
	w.run()
	w.streams[1].SendHead(&message.Head{Status: 200}, false)
	w.streams[1].Abort(message.Code(0xdead))
	w.run()
	if !r.aborted || r.code != 0xdead || r.status() != 200 || !s.Delivered() {
		t.Errorf("%+v", r)
	}

	// Aborted before it was ever sent: the server hears nothing.
	s, _ = w.open()
	s.Abort(message.Cancel)
	s.SendHead(post("/"), true)
	w.run()
	if len(w.received) != 2 || w.client.Stats().Open != 0 {
		t.Error("an aborted stream was opened")
	}
}

// TestEarlyResponse: NO_ERROR after a response stops the upload, and the
// response is still whole.
func TestEarlyResponse(t *testing.T) {
	w := newWorld(t, Config{}, Config{}, 20000)
	body := bytes.Repeat([]byte("response"), 50000)
	w.serve = func(s message.Stream) *recorder {
		return &recorder{lazy: true, onHead: func(s message.Stream, _ *message.Head, _ bool) {
			s.SendHead(&message.Head{Status: 413}, false)
			s.SendData(body, true)
			s.Abort(message.NoError)
		}}
	}
	s, r := w.open()
	s.SendHead(post("/"), false)
	s.SendData(make([]byte, 1<<20), false)
	w.run()
	if !bytes.Equal(r.body.Bytes(), body) || !r.ended || !r.aborted || r.code != message.NoError {
		t.Errorf("%d bytes, ended %v, aborted %v %v", r.body.Len(), r.ended, r.aborted, r.code)
	}
	if w.server.Stats().Open != 0 || w.client.Stats().Open != 0 {
		t.Error("streams left over")
	}
}

// TestRelease: streams are used again, and late calls from the old life harm
// nobody.
func TestRelease(t *testing.T) {
	w := newWorld(t, Config{}, Config{}, 0)
	w.serve = func(message.Stream) *recorder {
		return &recorder{onEnd: func(s message.Stream) {
			s.SendHead(&message.Head{Status: 200}, false)
			s.SendData([]byte("x"), true)
			s.(message.Releaser).Release()
		}}
	}
	seen := map[message.Stream]bool{}
	for range 50 {
		s, r := w.open()
		seen[s] = true
		s.SendHead(get("/"), true)
		w.run()
		if r.body.String() != "x" || !r.ended {
			t.Fatalf("%+v", r)
		}
		s.(message.Releaser).Release()
		w.run()
	}
	if len(seen) > 2 {
		t.Errorf("%d stream objects for one stream at a time", len(seen))
	}
	// Released in the middle: the peer hears of it.
	s, r := w.open()
	s.SendHead(post("/"), false)
	w.run()
	s.(message.Releaser).Release()
	w.run()
	if in := w.received[50]; !in.aborted || in.code != message.Cancel || r.aborted {
		t.Errorf("%+v", in)
	}
}

func TestHeadResponses(t *testing.T) {
	for _, c := range []struct {
		method string
		status int
		length string
		body   string
		ok     bool
	}{
		{"GET", 200, "5", "hello", true},
		{"GET", 200, "5", "hell", false},
		{"GET", 200, "5", "hello!", false},
		{"GET", 200, "5", "", false},
		{"GET", 200, "", "hello", true},
		{"HEAD", 200, "5", "", true},
		{"HEAD", 200, "5", "hello", false},
		{"GET", 304, "5", "", true},
		{"GET", 204, "", "", true},
		{"GET", 204, "", "x", false},
	} {
		w := newWorld(t, Config{}, Config{}, 0)
		w.serve = func(message.Stream) *recorder {
			return &recorder{onEnd: func(s message.Stream) {
				h := &message.Head{Status: c.status}
				if c.length != "" {
					h.Fields = []message.Field{{Name: "content-length", Value: c.length}}
				}
				s.SendHead(h, c.body == "")
				if c.body != "" {
					s.SendData([]byte(c.body), true)
				}
			}}
		}
		s, r := w.open()
		h := get("/")
		h.Method = c.method
		s.SendHead(h, true)
		w.run()
		if ok := r.ended && !r.aborted && r.body.String() == c.body; ok != c.ok {
			t.Errorf("%+v: ended %v, aborted %v %v", c, r.ended, r.aborted, r.err)
		}
		if !c.ok && (r.code != message.ProtocolError || r.err == nil) {
			t.Errorf("%+v: %v %v", c, r.code, r.err)
		}
	}
}

func TestConnect(t *testing.T) {
	for _, extended := range []bool{false, true} {
		w := newWorld(t, Config{}, Config{ExtendedConnect: true}, 0)
		w.serve = func(s message.Stream) *recorder {
			return &recorder{
				onHead: func(s message.Stream, _ *message.Head, _ bool) { s.SendHead(&message.Head{Status: 200}, false) },
				onData: func(s message.Stream, p []byte) { s.SendData(bytes.ToUpper(p), false) },
				onEnd:  func(s message.Stream) { s.SendData(nil, true) },
			}
		}
		s, r := w.open()
		h := &message.Head{Method: "CONNECT", Authority: "emoji:8080"}
		if extended {
			h = &message.Head{Method: "CONNECT", Protocol: "websocket", Scheme: "http", Authority: "emoji:8080", Path: "/chat"}
		}
		s.SendHead(h, false)
		s.SendData([]byte("one "), false)
		w.run()
		s.SendData([]byte("two"), true)
		w.run()
		in := w.received[0].heads[0]
		if in.Method != "CONNECT" || in.Authority != "emoji:8080" || in.Protocol != h.Protocol || in.Path != h.Path || r.body.String() != "ONE TWO" || !r.ended {
			t.Errorf("%+v: %q", in, r.body.String())
		}
	}
}

// TestExtendedConnectRefused: nothing of :protocol leaves before the server's
// SETTINGS have come, nor ever when these do not allow it.
func TestExtendedConnectRefused(t *testing.T) {
	h := &message.Head{Method: "CONNECT", Protocol: "websocket", Scheme: "http", Authority: "emoji:8080", Path: "/chat"}
	w := newWorld(t, Config{}, Config{}, 0)
	for range 2 {
		s, r := w.open()
		s.SendHead(h, false)
		s.SendData([]byte("early"), false)
		other, ok := w.open()
		other.SendHead(get("/"), true)
		w.run()
		if !r.aborted || r.code != message.HTTP11Required || !errors.Is(r.err, ErrNoExtendedConnect) || s.Delivered() {
			t.Errorf("%+v, delivered %v", r, s.Delivered())
		}
		if takes, known := other.(interface{ ExtendedConnect() (bool, bool) }).ExtendedConnect(); takes || !known {
			t.Errorf("takes %v, known %v", takes, known)
		}
		if n := len(w.received); n == 0 || w.received[n-1].heads[0].Method != "GET" || ok.aborted {
			t.Errorf("the other stream: %+v", ok)
		}
	}
	if n := len(w.received); n != 2 {
		t.Errorf("the server heard %d requests, want 2", n)
	}
}

func TestUnreceived(t *testing.T) {
	w := newWorld(t, Config{}, Config{}, 0)
	w.serve = func(message.Stream) *recorder { return nil }
	s, r := w.open()
	s.SendHead(get("/"), true)
	w.run()
	if !r.aborted || r.code != message.RefusedStream || s.Delivered() {
		t.Errorf("%+v, delivered %v", r, s.Delivered())
	}
}

// TestGRPC is 3,000 unary calls on one connection, 100 at a time.
func TestGRPC(t *testing.T) {
	w := newWorld(t, Config{}, Config{}, 0)
	w.serve = func(message.Stream) *recorder {
		r := &recorder{}
		r.onEnd = func(s message.Stream) {
			s.SendHead(&message.Head{Status: 200, Fields: []message.Field{{Name: "content-type", Value: "application/grpc"}}}, false)
			s.SendData(r.body.Bytes(), false)
			s.SendTrailers([]message.Field{{Name: "grpc-status", Value: "0"}})
		}
		return r
	}
	const calls = 3000
	done := 0
	for i := 0; i < calls; {
		s, err := w.client.OpenStream()
		if errors.Is(err, ErrSaturated) {
			w.run()
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("\x00\x00\x00\x00\x05%05d", i)
		r := &recorder{}
		r.onEnd = func(message.Stream) {
			if r.body.String() == want && text(r.trailers) == "grpc-status: 0" {
				done++
			}
		}
		s.SetReceiver(r)
		h := post("/voting.Vote/Cast")
		h.Fields = []message.Field{{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}, {Name: "grpc-timeout", Value: fmt.Sprint(i, "m")}}
		s.SendHead(h, false)
		s.SendData([]byte(want), true)
		i++
	}
	w.run()
	if done != calls || w.rooms == 0 {
		t.Errorf("%d calls of %d done; %d times told of room", done, calls, w.rooms)
	}
}
