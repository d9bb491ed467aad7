package h2

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// TestServerDrain: requests under way finish, those on their way still come in,
// later ones are refused, then the connection ends in order.
func TestServerDrain(t *testing.T) {
	w := newWorld(t, Config{}, Config{}, 0)
	s1, r1 := w.open()
	s1.SendHead(get("/1"), true)
	w.run()
	s2, r2 := w.open()
	s2.SendHead(get("/2"), true) // crosses the GOAWAY
	w.server.Drain()
	w.server.Drain()
	w.run()
	if w.drains != 1 || len(w.received) != 2 || !w.client.Stats().Draining {
		t.Fatalf("told %d times, %d requests", w.drains, len(w.received))
	}
	if _, err := w.client.OpenStream(); !errors.Is(err, ErrDraining) {
		t.Errorf("OpenStream: %v", err)
	}
	for _, s := range w.streams {
		s.SendHead(&message.Head{Status: 200}, true)
	}
	w.run()
	if !r1.ended || !r2.ended || r1.aborted || r2.aborted {
		t.Errorf("%+v %+v", r1, r2)
	}
	if len(w.clientClosed) != 1 || w.clientClosed[0] != nil || len(w.serverClosed) != 1 || w.serverClosed[0] != nil {
		t.Errorf("closed with %v and %v", w.clientClosed, w.serverClosed)
	}
	if !w.cc.IsClosed() || !w.sc.IsClosed() || w.cc.WasReset() || w.sc.WasReset() {
		t.Error("the transport did not end in order")
	}
}

// TestClientDrain: a client that drains finishes what is under way and leaves.
func TestClientDrain(t *testing.T) {
	w := newWorld(t, Config{}, Config{}, 0)
	s, r := w.open()
	s.SendHead(get("/"), true)
	w.run()
	w.client.Drain()
	w.run()
	if _, err := w.client.OpenStream(); !errors.Is(err, ErrDraining) || w.client.Stats().Closed {
		t.Errorf("OpenStream: %v, %+v", err, w.client.Stats())
	}
	w.streams[0].SendHead(&message.Head{Status: 200}, true)
	w.run()
	if !r.ended || r.aborted || len(w.clientClosed) != 1 || w.clientClosed[0] != nil || len(w.serverClosed) != 1 || w.serverClosed[0] != nil {
		t.Errorf("%+v, closed with %v and %v", r, w.clientClosed, w.serverClosed)
	}
	idle := newWorld(t, Config{}, Config{}, 0)
	idle.client.Drain()
	idle.run()
	if !idle.cc.IsClosed() || !idle.sc.IsClosed() || idle.sc.WasReset() {
		t.Error("an idle client does not leave in order")
	}
}

func TestFinalGoAway(t *testing.T) {
	p := rawClient(t, Config{}, nil)
	p.headers(1, true, getFields...)
	p.server.Drain()
	p.want("GOAWAY 0 last=2147483647 code=0 draining", "PING 0 74756e6d65736832")
	p.headers(3, true, getFields...)
	p.send(frame.AppendPing(nil, true, drainPing))
	p.want("GOAWAY 0 last=3 code=0 draining")
	p.headers(5, false, postFields...)
	p.send(raw(frame.Data, 1, 5, "x"))
	p.want("RST_STREAM 5 7")
	if len(p.got) != 2 {
		t.Errorf("%d requests", len(p.got))
	}
	p.answer()
	p.loop.Run(t)
	if !p.conn.EOF() || len(p.closed) != 1 || p.closed[0] != nil {
		t.Errorf("closed %v", p.closed)
	}

	// A client that never answers the PING waits no longer than DrainRTT.
	p = rawClient(t, Config{}, nil)
	p.server.Drain()
	p.loop.Advance(t, 1100*time.Millisecond)
	if !p.find("GOAWAY 0 last=0") || !p.conn.EOF() {
		t.Error("the drain waits for ever")
	}
}

// TestGoAwayLost: streams above the last one that the peer names were not
// delivered; the others finish.
func TestGoAwayLost(t *testing.T) {
	p := rawServer(t, Config{})
	var rs []*recorder
	var ss []message.Stream
	for range 3 {
		s, err := p.client.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		r := &recorder{}
		s.SetReceiver(r)
		s.SendHead(get("/"), true)
		rs, ss = append(rs, r), append(ss, s)
	}
	unsent, err := p.client.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	unsent.SetReceiver(r)
	p.frames()
	p.send(frame.AppendGoAway(nil, 3, message.NoError, "bye"))
	if rs[0].aborted || rs[1].aborted || !rs[2].aborted || !r.aborted {
		t.Errorf("aborted %v %v %v %v", rs[0].aborted, rs[1].aborted, rs[2].aborted, r.aborted)
	}
	if rs[2].code != message.RefusedStream || ss[2].Delivered() || !ss[1].Delivered() || unsent.Delivered() {
		t.Error("what was lost is not proved undelivered")
	}
	p.headers(1, true, ":status", "200")
	p.headers(3, true, ":status", "200")
	p.frames()
	if !rs[0].ended || !rs[1].ended || len(p.closed) != 1 || p.closed[0] != nil || !p.conn.EOF() {
		t.Errorf("%v %v %v", rs[0].ended, rs[1].ended, p.closed)
	}
}

func TestGoAwayError(t *testing.T) {
	p := rawServer(t, Config{})
	s, _ := p.client.OpenStream()
	r := &recorder{}
	s.SetReceiver(r)
	s.SendHead(get("/"), true)
	p.frames()
	p.send(frame.AppendGoAway(nil, 1, message.EnhanceYourCalm, "too_many_pings"))
	p.conn.Close()
	p.loop.Run(t)
	var e *GoAwayError
	if !r.aborted || !errors.As(r.err, &e) || e.Debug != "too_many_pings" || !s.Delivered() || len(p.closed) != 1 || !errors.As(p.closed[0], &e) {
		t.Errorf("%v, %v", r.err, p.closed)
	}
}

// TestBroken: a transport that breaks ends all streams; only what was written
// may have been delivered.
func TestBroken(t *testing.T) {
	for _, how := range []string{"reset", "EOF", "close"} {
		w := newWorld(t, Config{}, Config{}, 0)
		sent, r1 := w.open()
		sent.SendHead(get("/"), true)
		w.run()
		unsent, r2 := w.open()
		var closedFirst bool
		r2.onEnd = nil
		unsent.SendHead(get("/"), true)
		switch how {
		case "reset":
			w.sc.Reset()
		case "EOF":
			w.sc.Close()
		case "close":
			w.client.Close()
		}
		if r1.aborted || r2.aborted || closedFirst {
			t.Error("events from inside a call")
		}
		w.run()
		if !r1.aborted || !r2.aborted || r1.err == nil || len(w.clientClosed) != 1 {
			t.Errorf("%s: %+v %+v %v", how, r1, r2, w.clientClosed)
		}
		if !sent.Delivered() {
			t.Errorf("%s: what was sent counts as undelivered", how)
		}
		if how != "EOF" && how != "close" && unsent.Delivered() {
			t.Errorf("%s: what was never written counts as delivered", how)
		}
		if how == "close" && len(w.received) != 2 {
			t.Error("Close dropped what was queued")
		}
		if _, err := w.client.OpenStream(); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: OpenStream: %v", how, err)
		}
		if s := w.client.Stats(); s.Open != 0 || !s.Closed {
			t.Errorf("%s: %+v", how, s)
		}
	}
}

// TestUndeliveredOnStall: what a full transport never took is never sent once
// its owner heard that it was not delivered.
func TestUndeliveredOnStall(t *testing.T) {
	w := newWorld(t, Config{Keepalive: Keepalive{Interval: -1}}, Config{Keepalive: Keepalive{Interval: -1}}, 100)
	w.run()
	w.sc.SetHandler(nil) // the server is stuck
	first, r1 := w.open()
	first.SendHead(post("/"+strings.Repeat("x", 300)), false)
	w.run()
	second, r2 := w.open()
	second.SendHead(get("/"), true)
	w.run()
	w.client.Close()
	w.run()
	if !r1.aborted || !r2.aborted || first.Delivered() || second.Delivered() {
		t.Errorf("aborted %v %v, delivered %v %v", r1.aborted, r2.aborted, first.Delivered(), second.Delivered())
	}
	if !w.sc.WasReset() {
		t.Error("the rest may still be sent")
	}
}

func TestKeepalive(t *testing.T) {
	p := rawServer(t, Config{})
	s, _ := p.client.OpenStream()
	r := &recorder{}
	s.SetReceiver(r)
	s.SendHead(get("/"), true)
	p.frames()
	for range 5 { // an honest peer
		p.loop.Advance(t, 2*time.Second)
		if !p.find("PING 0 74756e6d65736831") {
			t.Fatal("no PING after 2 s of silence")
		}
		p.send(frame.AppendPing(nil, true, keepalivePing))
	}
	p.loop.Advance(t, time.Second)
	p.headers(1, false, ":status", "200") // any sign of life will do
	p.loop.Advance(t, 1900*time.Millisecond)
	if p.find("PING") {
		t.Error("a PING although the peer spoke")
	}
	silent := p.loop.Now()
	for r.err == nil && p.loop.Now() < silent+time.Minute {
		p.loop.Advance(t, 100*time.Millisecond)
	}
	if took := p.loop.Now() - silent; took > 5*time.Second || !errors.Is(r.err, ErrDeadPeer) {
		t.Errorf("noticed after %v: %v", took, r.err)
	}
	if len(p.closed) != 1 || !errors.Is(p.closed[0], ErrDeadPeer) || p.count.DeadPeers.Load() != 1 {
		t.Errorf("%v", p.closed)
	}
	p.loop.Advance(t, 2*time.Second)
	if !p.conn.WasReset() {
		t.Error("the transport is still open")
	}

	quiet := rawServer(t, Config{Keepalive: Keepalive{Interval: -1}})
	quiet.loop.Advance(t, time.Hour)
	if f := quiet.frames(); len(f) > 0 || len(quiet.closed) > 0 {
		t.Errorf("keepalive off: %q", f)
	}
}

func TestDeadlines(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(p *rawPeer)
		want error
		code message.Code
	}{
		{"no preface", func(p *rawPeer) {}, ErrSlowPeer, message.SettingsTimeout},
		{"half a preface", func(p *rawPeer) { p.send([]byte(frame.Preface[:9])) }, ErrSlowPeer, message.SettingsTimeout},
		{"no acknowledgement", func(p *rawPeer) { p.send(frame.AppendSettings([]byte(frame.Preface))) }, ErrSlowPeer, message.SettingsTimeout},
		{"half a frame", func(p *rawPeer) {
			p.send(frame.AppendSettingsAck(frame.AppendSettings([]byte(frame.Preface))))
			p.send(raw(frame.Headers, 5, 1, "\x82\x86\x84")[:10])
		}, ErrSlowPeer, message.EnhanceYourCalm},
		{"half a header block", func(p *rawPeer) {
			p.send(frame.AppendSettingsAck(frame.AppendSettings([]byte(frame.Preface))))
			p.send(raw(frame.Headers, 0, 1, "\x82\x86\x84"))
			for range 20 {
				p.loop.Advance(p, time.Second)
				if len(p.closed) == 0 {
					p.send(raw(frame.Continuation, 0, 1, "\x00\x01a\x01b"))
				}
			}
		}, ErrSlowPeer, message.EnhanceYourCalm},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPeer(t)
			ours, theirs := pipe(p)
			p.conn = theirs
			NewServer(ours, Config{
				Counters: &p.count, Keepalive: Keepalive{Interval: -1}, OnClosed: func(err error) { p.closed = append(p.closed, err) },
			}, func(s message.Stream) { s.SetReceiver(&recorder{}) })
			c.do(p)
			p.loop.Advance(t, 10*time.Second)
			if len(p.closed) != 1 || !errors.Is(p.closed[0], c.want) || p.count.SlowFrames.Load() != 1 {
				t.Fatalf("%v", p.closed)
			}
			if got := strings.Join(p.frames(), ";"); !strings.Contains(got, fmt.Sprintf("code=%d ", c.code)) {
				t.Error(got)
			}
		})
	}
	// A busy connection often ends a read inside a frame: no harm.
	p := rawClient(t, Config{Keepalive: Keepalive{Interval: -1}}, nil)
	ping := raw(frame.Ping, 0, 0, "12345678")
	p.send(ping[:8])
	for range 30 {
		p.loop.Advance(t, time.Second)
		p.send(append(ping[8:len(ping):len(ping)], ping[:8]...))
	}
	if len(p.closed) > 0 {
		t.Error(p.closed)
	}
}

func TestWriteStall(t *testing.T) {
	w := newWorld(t, Config{Keepalive: Keepalive{Interval: -1}}, Config{Keepalive: Keepalive{Interval: -1}}, 3000)
	s, r := w.open()
	s.SendHead(post("/"), false)
	w.run()
	w.sc.SetHandler(nil)
	s.SendData(make([]byte, 10000), true)
	w.run()
	w.loop.Advance(t, 59*time.Second)
	if r.aborted {
		t.Fatal("too early")
	}
	w.loop.Advance(t, 2*time.Second)
	if !r.aborted || !errors.Is(r.err, ErrWriteStall) || w.clientCounters.WriteStalls.Load() != 1 {
		t.Errorf("%+v", r)
	}
}

// TestSettingsMidFlight: windows shrink below zero and grow again.
func TestSettingsMidFlight(t *testing.T) {
	p := rawServer(t, Config{})
	s, _ := p.client.OpenStream()
	r := &recorder{}
	s.SetReceiver(r)
	s.SendHead(post("/"), false)
	s.SendData(make([]byte, 100000), true)
	sum := func() (n int) {
		for _, l := range p.frames() {
			var id, k int
			if _, err := fmt.Sscanf(l, "DATA %d %d", &id, &k); err == nil {
				n += k
			}
		}
		return n
	}
	set := func(n uint32) {
		p.send(frame.AppendSettings(nil, frame.Setting{ID: frame.InitialWindowSize, Value: 1}, frame.Setting{ID: frame.InitialWindowSize, Value: n}))
	}
	p.send(frame.AppendWindowUpdate(nil, 0, 1<<20))
	if n := sum(); n != 65535 {
		t.Errorf("%d bytes in the first window", n)
	}
	set(1000) // the window is 1000-65535 now
	p.send(frame.AppendWindowUpdate(nil, 1, 64535))
	if n := sum(); n != 0 {
		t.Errorf("%d bytes into a negative window", n)
	}
	set(1001)
	if n := sum(); n != 1 {
		t.Errorf("%d bytes, want 1", n)
	}
	set(65535)
	if n := sum(); n != 100000-65536 {
		t.Errorf("%d bytes, want the rest", n)
	}
	if r.drained != 100000 {
		t.Errorf("%d drained", r.drained)
	}
}

// TestTinyWindow: one byte at a time arrives whole.
func TestTinyWindow(t *testing.T) {
	p := rawServer(t, Config{}, frame.Setting{ID: frame.InitialWindowSize, Value: 0})
	s, _ := p.client.OpenStream()
	s.SetReceiver(&recorder{})
	s.SendHead(post("/"), false)
	s.SendData([]byte("abc"), false)
	s.SendTrailers([]message.Field{{Name: "x", Value: "y"}})
	p.want("HEADERS 1 path=/")
	for range 3 {
		p.send(frame.AppendWindowUpdate(nil, 1, 1))
	}
	p.want("DATA 1 1", "DATA 1 1", "DATA 1 1", "HEADERS 1 x=y end")
}

// TestConcurrency: the peer's limit, also one that is lowered, holds.
func TestConcurrency(t *testing.T) {
	p := rawServer(t, Config{}, frame.Setting{ID: frame.MaxConcurrentStreams, Value: 2})
	var ss []message.Stream
	open := func() error {
		s, err := p.client.OpenStream()
		if err == nil {
			s.SetReceiver(&recorder{})
			ss = append(ss, s)
		}
		return err
	}
	if open() != nil || open() != nil || p.client.Capacity() != 0 {
		t.Fatal("no room for two")
	}
	rooms := 0
	p.client.cfg.OnCapacity = func() { rooms++ }
	if err := open(); !errors.Is(err, ErrSaturated) {
		t.Fatal(err)
	}
	// The limit sinks before the second is sent: it waits.
	ss[0].SendHead(get("/1"), true)
	p.send(frame.AppendSettings(nil, frame.Setting{ID: frame.MaxConcurrentStreams, Value: 1}))
	ss[1].SendHead(post("/2"), false)
	ss[1].SendData([]byte("body"), true)
	p.want("HEADERS 1 path=/1 end", "SETTINGS 0 ack")
	if ss[1].Delivered() {
		t.Error("what waits counts as delivered")
	}
	p.headers(1, true, ":status", "200")
	p.want("HEADERS 3 path=/2", "DATA 3 4 end")
	if rooms != 0 {
		t.Error("told of room that is not there")
	}
	p.headers(3, true, ":status", "200")
	if rooms != 1 || p.client.Capacity() != 1 {
		t.Errorf("told %d times, room for %d", rooms, p.client.Capacity())
	}
}

func TestIDsRunOut(t *testing.T) {
	p := rawServer(t, Config{})
	p.client.nextID = frame.MaxStreamID - 2
	drains := 0
	p.client.cfg.OnDrain = func() { drains++ }
	for i := range 2 {
		if c := p.client.Capacity(); c != 2-i {
			t.Errorf("capacity %d", c)
		}
		s, err := p.client.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		s.SetReceiver(&recorder{})
		s.SendHead(get("/"), true)
	}
	if _, err := p.client.OpenStream(); !errors.Is(err, ErrDraining) {
		t.Error(err)
	}
	p.want("HEADERS 2147483645 path=/ end", "HEADERS 2147483647 path=/ end")
	p.headers(frame.MaxStreamID-2, true, ":status", "200")
	p.headers(frame.MaxStreamID, true, ":status", "200")
	p.frames()
	if drains != 1 || !p.conn.EOF() || len(p.closed) != 1 || p.closed[0] != nil {
		t.Errorf("%d drains, closed %v", drains, p.closed)
	}
}

func TestRefusedStream(t *testing.T) {
	p := rawServer(t, Config{})
	s, _ := p.client.OpenStream()
	r := &recorder{}
	s.SetReceiver(r)
	s.SendHead(get("/"), true)
	p.frames()
	p.send(frame.AppendRST(nil, 1, message.RefusedStream))
	if !r.aborted || r.code != message.RefusedStream || s.Delivered() {
		t.Errorf("%+v, delivered %v", r, s.Delivered())
	}
}

// TestSmallWindows: windows below the protocol's initial one hold once the peer
// has acknowledged them, and not before.
func TestSmallWindows(t *testing.T) {
	p := newPeer(t)
	ours, theirs := pipe(p)
	p.conn = theirs
	r := &recorder{}
	NewServer(ours, Config{StreamWindow: 1000}, func(s message.Stream) { s.SetReceiver(r) })
	p.send(frame.AppendSettings([]byte(frame.Preface)))
	p.headers(1, false, postFields...)
	p.send(frame.AppendData(nil, 1, make([]byte, 16000), false)) // before it knows
	p.send(frame.AppendSettingsAck(nil))
	if p.find("RST_STREAM") || r.body.Len() != 16000 {
		t.Fatalf("%d bytes", r.body.Len())
	}
	p.headers(3, false, postFields...)
	p.send(frame.AppendData(nil, 3, make([]byte, 1001), false))
	if !p.find("RST_STREAM 3 3") {
		t.Error("the window does not hold")
	}
}

func TestAnyTransportOrder(t *testing.T) {
	// The peer's SETTINGS may already wait when the client is made.
	p := newPeer(t)
	ours, theirs := pipe(p)
	p.conn = theirs
	theirs.Put(frame.AppendSettings(nil, frame.Setting{ID: frame.MaxConcurrentStreams, Value: 7}))
	p.loop.Run(t)
	c := NewClient(ours, Config{})
	p.loop.Run(t)
	if c.Capacity() != 7 {
		t.Errorf("capacity %d", c.Capacity())
	}
	if c.Transport() != aio.Conn(ours) {
		t.Error("another transport")
	}
}
