package h2

import (
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/hpack"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// seeds are conversations of a client or a server, without the preface.
func seeds(client bool) [][]byte {
	enc := hpack.NewEncoder(4096)
	block := func(kv ...string) (b []byte) {
		for i := 0; i < len(kv); i += 2 {
			b = enc.Append(b, kv[i], kv[i+1], hpack.Auto)
		}
		return b
	}
	head := postFields
	if !client {
		head = []string{":status", "200", "content-type", "text/plain"}
	}
	start := frame.AppendSettingsAck(frame.AppendSettings(nil, frame.Setting{ID: frame.InitialWindowSize, Value: 100}))
	one := frame.AppendHeaders(append([]byte{}, start...), 1, block(head...), false, 3)
	one = append(one, raw(frame.Data, frame.Padded, 1, "\x02body\x00\x00")...)
	one = frame.AppendHeaders(one, 1, block("x-sum", "1"), true, 100)
	two := frame.AppendHeaders(append([]byte{}, start...), 1, block(head...), false, 100)
	two = frame.AppendRST(two, 1, message.Cancel)
	two = frame.AppendPing(frame.AppendWindowUpdate(two, 0, 1000), false, 1)
	two = frame.AppendHeaders(two, 3, block(head...), true, 100)
	two = frame.AppendWindowUpdate(two, 3, 5)
	two = frame.AppendGoAway(two, 1, message.NoError, "bye")
	three := frame.AppendSettings(append([]byte{}, start...), frame.Setting{ID: frame.HeaderTableSize, Value: 0}, frame.Setting{ID: frame.InitialWindowSize, Value: 1 << 20})
	three = append(three, raw(frame.Headers, 0x2d, 5, "\x01\x00\x00\x00\x01\x10\x82\x86\x84\x00")...)
	three = append(three, raw(frame.Priority, 0, 3, "\x00\x00\x00\x00\x01")...)
	return [][]byte{one, two, three}
}

// feed puts b on the wire in pieces of a size and runs all deadlines out.
func feed(t *testing.T, loop *aiotest.Loop, conn *aiotest.Conn, b []byte, piece int) {
	for len(b) > 0 && !conn.WasReset() && !conn.EOF() {
		n := min(len(b), max(1, piece))
		conn.Put(b[:n])
		b = b[n:]
		loop.Run(t)
		conn.Take()
	}
}

// settle ends a connection and checks that nothing is left of it.
func settle(t *testing.T, loop *aiotest.Loop, c *Conn, conn *aiotest.Conn, told *int) {
	if n := c.out.unsent(); n > 256<<10 {
		t.Errorf("%d bytes of output", n)
	}
	unread, open := 0, 0
	for _, s := range c.streams.slots {
		if s != nil {
			open++
			unread += s.unread
		}
	}
	if open != c.streams.n || unread != c.unread {
		t.Errorf("%d streams, counted %d; %d bytes unread, counted %d", open, c.streams.n, unread, c.unread)
	}
	conn.Take()
	loop.Run(t)
	conn.Reset()
	loop.Advance(t, time.Minute)
	if st := c.Stats(); !st.Closed || st.Open != 0 || st.Unread != 0 || *told != 1 {
		t.Errorf("%+v, told %d times", st, *told)
	}
	if c.state != closed {
		t.Errorf("state %d", c.state)
	}
}

// FuzzServer: whatever a client sends, a server neither panics nor leaks nor
// tells its receivers nonsense (recorder panics).
func FuzzServer(f *testing.F) {
	for _, s := range seeds(true) {
		f.Add(s, uint16(1000))
		f.Add(s, uint16(7))
	}
	f.Fuzz(func(t *testing.T, b []byte, piece uint16) {
		loop := aiotest.NewLoop()
		ours, theirs := aiotest.Pipe(loop, 1<<20)
		told := 0
		s := NewServer(ours, Config{OnClosed: func(error) { told++ }, MaxStreams: 5, ExtendedConnect: true, MaxHeaderList: 8000}, func(s message.Stream) {
			r := echo(s)
			l := &relay{to: s}
			r.onData = func(s message.Stream, p []byte) { l.data(s, p) }
			r.onEnd = func(s message.Stream) { s.SendTrailers([]message.Field{{Name: "a", Value: "b"}}) }
			s.SetReceiver(r)
		})
		theirs.Put([]byte(frame.Preface))
		loop.Run(t)
		feed(t, loop, theirs, b, int(piece))
		settle(t, loop, &s.Conn, theirs, &told)
	})
}

// FuzzClient is the same for a client with three requests under way.
func FuzzClient(f *testing.F) {
	for _, s := range seeds(false) {
		f.Add(s, uint16(1000))
		f.Add(s, uint16(7))
	}
	f.Fuzz(func(t *testing.T, b []byte, piece uint16) {
		loop := aiotest.NewLoop()
		ours, theirs := aiotest.Pipe(loop, 1<<20)
		told := 0
		c := NewClient(ours, Config{OnClosed: func(error) { told++ }, MaxHeaderList: 8000})
		var all []*recorder
		for range 3 {
			s, err := c.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			r := &recorder{}
			all = append(all, r)
			s.SetReceiver(r)
			s.SendHead(post("/"), false)
			s.SendData(make([]byte, 1000), false)
			s.SendTrailers([]message.Field{{Name: "a", Value: "b"}})
		}
		loop.Run(t)
		theirs.Take()
		feed(t, loop, theirs, b, int(piece))
		settle(t, loop, &c.Conn, theirs, &told)
		for i, r := range all {
			if !r.ended && !r.aborted {
				t.Errorf("stream %d was forgotten", i)
			}
		}
	})
}
