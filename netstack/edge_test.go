package netstack

import (
	"errors"
	"io"
	"testing"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/netstack/memlink"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

// flags collects the TCP flags of what the stack sends on a side.
func (s *still) flags(side aio.Side) *[]byte {
	var got []byte
	s.l.device(side).(*memlink.End).SetTap(func(_ tun.Header, p []byte) (memlink.Verdict, error) {
		got = append(got, p[33])
		return memlink.Pass, nil
	})
	return &got
}

func has(flags []byte, want byte) bool {
	for _, f := range flags {
		if f&want != 0 {
			return true
		}
	}
	return false
}

// TestCallsOnABrokenConnection: between the RST's arrival and the handler's
// turn, every call says what happened, and the handler hears it, once.
func TestCallsOnABrokenConnection(t *testing.T) {
	for _, first := range []string{"read", "write", "close-write", "copy"} {
		e := &ends{}
		s := newStill(t, accepting(t, e))
		s.open(t, e, 40001)
		other := &ends{}
		s.l.s.cfg.OnSYN = accepting(t, other)
		s.open(t, other, 40005)
		if err := s.far[aio.App].Write(&tun.Header{Flags: tun.NeedsChecksum}, [][]byte{fuzzTCP(4, 40001, 1001, 0, 4, nil)}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.l.drain(aio.App); err != nil {
			t.Fatal(err)
		}
		var err error
		switch first {
		case "read":
			_, err = e.conn.Read(make([]byte, 1))
		case "write":
			_, err = e.conn.Write([]byte("x"))
		case "close-write":
			err = e.conn.CloseWrite()
		case "copy":
			_, err, _ = e.conn.(aio.Copier).CopyTo(other.conn)
		}
		if !errors.Is(err, aio.ErrReset) {
			t.Errorf("%s: %v", first, err)
		}
		if e.closed {
			t.Errorf("%s: the handler was called from inside", first)
		}
		s.pass(t)
		if !e.closed || !errors.Is(e.err, aio.ErrReset) {
			t.Errorf("%s: closed %v, %v", first, e.closed, e.err)
		}
		for name, call := range map[string]func() error{
			"read":        func() error { _, err := e.conn.Read(make([]byte, 1)); return err },
			"write":       func() error { _, err := e.conn.Write([]byte("x")); return err },
			"close-write": e.conn.CloseWrite,
			"copy to it":  func() error { _, err, _ := other.conn.(aio.Copier).CopyTo(e.conn); return err },
		} {
			if err := call(); !errors.Is(err, aio.ErrReset) {
				t.Errorf("%s, afterwards %s: %v", first, name, err)
			}
		}
	}
}

// TestClosingInTheHandshake: what is asked for before the client's ACK happens
// after it.
func TestClosingInTheHandshake(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(c aio.Conn)
		want byte // among the flags that answer the ACK
	}{
		{"half-close", func(c aio.Conn) { _ = c.CloseWrite(); _ = c.CloseWrite() }, 1},
		{"close", func(c aio.Conn) { c.Close(); c.Close() }, 1},
		{"reset", func(c aio.Conn) { c.Reset(); c.Close() }, 4},
	} {
		e := &ends{}
		s := newStill(t, accepting(t, e))
		s.send(t, aio.App, fuzzTCP(4, 40001, 1000, 0, 2, nil))
		tc.do(e.conn)
		got := s.flags(aio.App)
		s.pass(t)
		if has(*got, 1) {
			t.Errorf("%s: a FIN left before the handshake was over", tc.name)
		}
		s.send(t, aio.App, fuzzTCP(4, 40001, 1001, s.iss(e)+1, 16, nil))
		if !has(*got, tc.want) {
			t.Errorf("%s: the ACK was answered with flags %v", tc.name, *got)
		}
		if n := s.l.doors[aio.App].opening.used; n != 0 {
			t.Errorf("%s: %d handshakes are left", tc.name, n)
		}
	}
}

// TestTheEndLeavesNothing: what the stack holds for others goes when it ends,
// whatever they do: bytes of a connection that is over and that nobody read, and a
// SYN that another loop handed over last.
func TestTheEndLeavesNothing(t *testing.T) {
	for _, tc := range []struct {
		name string
		over func(s *still, e *ends)
		want error
	}{
		{"reset", func(s *still, e *ends) {
			s.send(t, aio.App, fuzzTCP(4, 40001, 1006, s.iss(e)+1, 20, nil))
		}, aio.ErrReset},
		{"closed in order", func(s *still, e *ends) {
			s.send(t, aio.App, fuzzTCP(4, 40001, 1006, s.iss(e)+1, 17, nil))
			if err := e.conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			s.pass(t)
			s.send(t, aio.App, fuzzTCP(4, 40001, 1007, s.iss(e)+2, 16, nil))
		}, aio.ErrReset},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := &ends{}
			var idle busy
			t.Cleanup(func() { // after the stack's end
				if c := e.conn.(*conn); c.unread() != 0 || c.received != 0 || c.l.memory.used != 0 || len(c.l.unread) != 0 {
					t.Errorf("%d bytes are left, %d with what they cost, %d of all connections", c.unread(), c.received, c.l.memory.used)
				}
				if !errors.Is(idle.err, tc.want) {
					t.Errorf("the handler heard %v", idle.err)
				}
			})
			s := newStill(t, accepting(t, e))
			s.open(t, e, 40001)
			e.conn.SetHandler(&idle)
			s.send(t, aio.App, fuzzTCP(4, 40001, 1001, s.iss(e)+1, 24, []byte("hello")))
			tc.over(s, e)
			if c := e.conn.(*conn); !c.gone || c.unread() == 0 || idle.err != nil {
				t.Fatalf("over: %v, %d unread, %v", c.gone, c.unread(), idle.err)
			}
		})
	}
	t.Run("a SYN in the inbox", func(t *testing.T) {
		s := newStill(t, func(*Pending) { t.Error("a connection began at the end") })
		s.l.give(foreign{aio.App, tun.Header{Flags: tun.NeedsChecksum}, fuzzTCP(4, 40001, 1000, 0, 2, nil)})
	})
}

// busy is a handler that does not read yet.
type busy struct{ err error }

func (*busy) Readable(aio.Conn)              {}
func (*busy) Writable(aio.Conn)              {}
func (b *busy) Closed(_ aio.Conn, err error) { b.err = err }

func TestCopyToStrangers(t *testing.T) {
	e := &ends{}
	s := newStill(t, accepting(t, e))
	s.open(t, e, 40001)
	fake, _ := aiotest.Pipe(aiotest.NewLoop(), 0)
	elsewhere := &conn{l: &loop{}}
	for name, dst := range map[string]aio.Conn{"itself": e.conn, "another kind": fake, "another loop's": elsewhere} {
		if n, err, ok := e.conn.(aio.Copier).CopyTo(dst); n != 0 || err != nil || ok {
			t.Errorf("%s: %d, %v, %v", name, n, err, ok)
		}
	}
}

// TestForgedAcks: an ACK that does not know the SYN-ACK opens nothing, whole or
// in pieces.
func TestForgedAcks(t *testing.T) {
	e := &ends{}
	s := newStill(t, accepting(t, e))
	s.send(t, aio.App, fuzzTCP(4, 40001, 1000, 0, 2, nil))
	got := s.flags(aio.App)
	forged := fuzzTCP(4, 40001, 1001, s.iss(e)+2, 16, make([]byte, 28))
	s.send(t, aio.App, forged)
	for _, piece := range [][2]int{{0, 24}, {24, 48}} {
		p := append(append([]byte(nil), forged[:20]...), forged[20+piece[0]:20+piece[1]]...)
		p[2], p[3], p[6], p[7] = 0, byte(len(p)), 0, byte(piece[0]/8)
		if piece[0] == 0 {
			p[6] = 0x20
		}
		fixChecksum(p)
		s.send(t, aio.App, p)
	}
	if !e.conn.(*conn).shaking {
		t.Error("the connection is open")
	}
	if n := s.l.s.Counters().App.Resets; n != 2 || !has(*got, 4) {
		t.Errorf("%d resets, flags %v", n, *got)
	}
}

// TestReadingDry: a Read that took everything spares the next one the way into
// gVisor, and nothing that comes after is missed: not bytes, not the end.
func TestReadingDry(t *testing.T) {
	e := &ends{}
	s := newStill(t, accepting(t, e))
	s.open(t, e, 40001)
	c := e.conn.(*conn)
	c.SetHandler(nil)
	seq := uint32(1001)
	come := func(flags byte, text string) {
		t.Helper()
		s.send(t, aio.App, fuzzTCP(4, 40001, seq, s.iss(e)+1, flags, []byte(text)))
		seq += uint32(len(text))
	}
	buf := make([]byte, 100)
	read := func(n int, want error, dry bool) {
		t.Helper()
		if k, err := c.Read(buf); k != n || !errors.Is(err, want) || c.dry != dry {
			t.Errorf("%d bytes, %v, dry %v; want %d, %v, %v", k, err, c.dry, n, want, dry)
		}
	}
	come(24, "hello")
	if n := testing.AllocsPerRun(100, func() { _, _ = c.Peek(buf) }); n != 0 {
		t.Errorf("a read of bytes makes %v allocations", n)
	}
	read(5, nil, true)
	read(0, aio.ErrWouldBlock, true)
	come(24, "again")
	if n, err := c.Read(buf[:2]); n != 2 || err != nil || c.dry {
		t.Errorf("%d bytes, %v, dry %v with three left", n, err, c.dry)
	}
	read(3, nil, true)
	come(24, "last")
	come(25, "words")
	read(9, nil, false)
	read(0, io.EOF, false)
}
