package netstack_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack"
	"github.com/tunmesh/tunmesh/netstack/memlink"
	"github.com/tunmesh/tunmesh/netstack/packet"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

var client4 = netip.AddrPortFrom(pod4, 40000)

func drops(side aio.Side, why packet.Reason) func(netstack.Counters) uint64 {
	return func(c netstack.Counters) uint64 { return c.Side(side).Drops[why] }
}

func TestMidStreamSegmentsAreReset(t *testing.T) {
	r := newRaw(t, (*netstack.Pending).Drop)
	for _, tc := range []struct {
		side     aio.Side
		src, dst netip.AddrPort
	}{
		{aio.App, client4, at(server4, 80)}, {aio.Wire, at(server4, 80), client4},
		{aio.App, netip.AddrPortFrom(pod6, 40000), at(server6, 80)}, {aio.Wire, at(server6, 80), netip.AddrPortFrom(pod6, 40000)},
	} {
		r.send(tc.side, segment{src: tc.src, dst: tc.dst, seq: 5, ack: 77, flags: fACK, payload: []byte("lost")}.packet())
		got := r.want(tc.side)
		if got.flags&fRST == 0 || got.seq != 77 || got.src != tc.dst || got.dst != tc.src {
			t.Errorf("%v: answered with %+v", tc.side, got)
		}
		r.silence(1 - tc.side)
		r.send(tc.side, segment{src: tc.src, dst: tc.dst, seq: 5, ack: 77, flags: fRST | fACK}.packet())
		r.silence(tc.side)
	}
	r.count("resets", func(c netstack.Counters) uint64 { return c.App.Resets + c.Wire.Resets }, 4)
	r.count("resets ignored", drops(aio.App, packet.ResetIgnored), 2)
}

func TestResetsAreBounded(t *testing.T) {
	r := newRaw(t, (*netstack.Pending).Drop)
	b := segment{src: client4, dst: at(server4, 80), seq: 5, ack: 77, flags: fACK}.packet()
	const sent = 7000
	for range sent {
		r.send(aio.App, b)
	}
	waitFor(t, func() bool { return r.stack.Counters().App.RxPackets == sent })
	c := r.stack.Counters().App
	if c.Resets < 4096 || c.Drops[packet.ResetLimit] == 0 || c.Resets+c.Drops[packet.ResetLimit] != sent {
		t.Errorf("%d resets, %d dropped, of %d", c.Resets, c.Drops[packet.ResetLimit], sent)
	}
}

func TestRepeatedSYNsAreOnePending(t *testing.T) {
	var seen atomic.Int32
	kept := make(chan *netstack.Pending, 1)
	r := newRaw(t, func(p *netstack.Pending) {
		seen.Add(1)
		kept <- p
	})
	syn := segment{src: client4, dst: at(server4, 80), seq: 1000, flags: fSYN}.packet()
	for range 3 {
		r.send(aio.App, syn)
	}
	p := <-kept
	r.silence(aio.App)
	if p.Side != aio.App || p.Src != client4 || p.Dst != at(server4, 80) || p.Loop() != r.stack.Loops()[0] {
		t.Errorf("%+v", p)
	}
	done := make(chan error, 3)
	p.Loop().Post(func() {
		p.Refuse()
		p.Refuse() // has no effect
		p.Drop()
		_, err := p.Accept()
		done <- err
	})
	if got := r.want(aio.App); got.flags != fRST|fACK || got.ack != 1001 {
		t.Errorf("refused with %+v", got)
	}
	r.silence(aio.App)
	if err := <-done; !errors.Is(err, aio.ErrClosed) {
		t.Errorf("accept after refuse: %v", err)
	}
	if n := seen.Load(); n != 1 {
		t.Errorf("OnSYN was called %d times", n)
	}
}

func TestPendingIsBoundedInNumberAndTime(t *testing.T) {
	r := newRaw(t, func(*netstack.Pending) {}, func(c *netstack.Config) {
		c.MaxPending, c.PendingTimeout = 2, 300*time.Millisecond
	})
	for port := range uint16(5) {
		r.send(aio.App, segment{src: netip.AddrPortFrom(pod4, 40000+port), dst: at(server4, 80), flags: fSYN}.packet())
	}
	r.count("SYNs beyond the limit", drops(aio.App, packet.PendingLimit), 3)
	r.count("expired", func(c netstack.Counters) uint64 { return c.App.Expired }, 2)
	r.send(aio.App, segment{src: client4, dst: at(server4, 80), flags: fSYN}.packet())
	r.count("SYNs that became pending", func(c netstack.Counters) uint64 { return c.App.SYNs }, 3)
}

// TestSYNFloods: who begins handshakes and does not end them leaves as many to
// others of his side, and all to the other side.
func TestSYNFloods(t *testing.T) {
	r := newRaw(t, func(p *netstack.Pending) {
		if _, err := p.Accept(); err != nil {
			t.Error(err)
		}
	}, func(c *netstack.Config) { c.MaxPending = 8 })
	syns := func(side aio.Side, ip string, n uint64) {
		t.Helper()
		src, dst := netip.AddrPortFrom(netip.MustParseAddr(ip), 40000), netip.AddrPortFrom(pod4, 80)
		if side == aio.App {
			src, dst = netip.AddrPortFrom(pod4, 40000), netip.AddrPortFrom(netip.MustParseAddr(ip), 80)
		}
		for range n {
			src = netip.AddrPortFrom(src.Addr(), src.Port()+1)
			r.send(side, segment{src: src, dst: dst, flags: fSYN}.packet())
		}
	}
	of := func(side aio.Side) func(c netstack.Counters) uint64 {
		return func(c netstack.Counters) uint64 { return c.Side(side).Accepted }
	}
	syns(aio.Wire, "192.0.2.77", 20)
	r.count("SYNs of one client beyond the limit", drops(aio.Wire, packet.PendingLimit), 16)
	r.count("of them accepted", of(aio.Wire), 4)
	syns(aio.Wire, "192.0.2.78", 1)
	r.count("accepted with somebody else's", of(aio.Wire), 5)
	syns(aio.App, "192.0.2.77", 9)
	r.count("accepted from the app", of(aio.App), 8)
	r.count("dropped from the app", drops(aio.App, packet.PendingLimit), 1)
}

// watcher records a connection's events.
type watcher struct {
	data   bytes.Buffer
	eof    bool
	closed chan error
	onData func(aio.Conn)
}

func newWatcher() *watcher { return &watcher{closed: make(chan error, 2)} }

func (w *watcher) Readable(c aio.Conn) {
	var buf [4096]byte
	for {
		n, err := c.Read(buf[:])
		w.data.Write(buf[:n])
		if err != nil {
			w.eof = w.eof || errors.Is(err, io.EOF)
			break
		}
	}
	if w.onData != nil {
		w.onData(c)
	}
}
func (w *watcher) Writable(aio.Conn)            {}
func (w *watcher) Closed(_ aio.Conn, err error) { w.closed <- err }

// on runs f on the stack's loop.
func (r *raw) on(f func()) {
	r.t.Helper()
	done := make(chan struct{})
	if !r.stack.Loops()[0].Post(func() { defer close(done); f() }) {
		r.t.Fatal("the loop does not take functions")
	}
	<-done
}

func acceptor(w *watcher, conns chan<- aio.Conn) func(*netstack.Pending) {
	return func(p *netstack.Pending) {
		c, err := p.Accept()
		if err != nil {
			panic(err)
		}
		if w != nil {
			c.SetHandler(w)
		}
		conns <- c
	}
}

// TestAckWithBytes: the ACK that completes the handshake brings bytes, and FIN.
func TestAckWithBytes(t *testing.T) {
	for _, fin := range []byte{0, fFIN} {
		w, conns := newWatcher(), make(chan aio.Conn, 1)
		r := newRaw(t, acceptor(w, conns))
		r.send(aio.App, segment{src: client4, dst: at(server4, 80), seq: 1000, flags: fSYN}.packet())
		sa := r.want(aio.App)
		c := <-conns
		next := segment{src: client4, dst: at(server4, 80), seq: 1001, ack: sa.seq + 1, flags: fACK | fPSH | fin, payload: []byte("early")}
		bad := next
		bad.ack += 99
		r.send(aio.App, bad.packet()) // of another connection: no effect but RST
		if got := r.want(aio.App); got.flags&fRST == 0 {
			t.Errorf("a wrong ACK is answered with %+v", got)
		}
		r.send(aio.App, next.packet())
		got := r.want(aio.App)
		for got.ack != 1006+uint32(fin) { // bytes and FIN may be acknowledged one after the other
			got = r.want(aio.App)
		}
		r.on(func() {
			if w.data.String() != "early" || w.eof != (fin != 0) {
				t.Errorf("%q, eof %v", w.data.String(), w.eof)
			}
			if c.Local() != at(server4, 80) || c.Remote() != client4 {
				t.Errorf("local %v, remote %v", c.Local(), c.Remote())
			}
			c.Reset()
		})
	}
}

func TestClientThatTakesItsSYNBack(t *testing.T) {
	w, conns := newWatcher(), make(chan aio.Conn, 1)
	r := newRaw(t, acceptor(w, conns))
	r.send(aio.App, segment{src: client4, dst: at(server4, 80), seq: 1000, flags: fSYN}.packet())
	r.want(aio.App)
	c := <-conns
	r.on(func() {
		if n, err := c.Write([]byte("x")); n != 0 || !errors.Is(err, aio.ErrWouldBlock) {
			t.Errorf("write in the handshake: %d, %v", n, err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, aio.ErrWouldBlock) {
			t.Errorf("read in the handshake: %v", err)
		}
	})
	r.send(aio.App, segment{src: client4, dst: at(server4, 80), seq: 1001, flags: fRST}.packet())
	if err := <-w.closed; !errors.Is(err, aio.ErrReset) {
		t.Errorf("closed with %v", err)
	}
}

func TestResetInCloseWait(t *testing.T) {
	w, conns := newWatcher(), make(chan aio.Conn, 1)
	r := newRaw(t, acceptor(w, conns))
	next := r.connect(aio.App, client4, at(server4, 80))
	<-conns
	next.flags = fFIN | fACK
	r.send(aio.App, next.packet())
	r.want(aio.App)
	next.seq++
	next.flags = fRST
	r.send(aio.App, next.packet())
	if err := <-w.closed; !errors.Is(err, aio.ErrReset) {
		t.Errorf("closed with %v", err)
	}
}

// TestOrderlyEnd: Closed comes once both directions are over, with nil; and
// what was written before Close still arrives.
func TestOrderlyEnd(t *testing.T) {
	w, conns := newWatcher(), make(chan aio.Conn, 1)
	w.onData = func(c aio.Conn) {
		if w.eof {
			_, _ = c.Write([]byte("bye"))
			_ = c.CloseWrite()
		}
	}
	r := newRaw(t, acceptor(w, conns))
	next := r.connect(aio.App, client4, at(server4, 80))
	<-conns
	next.flags, next.payload = fFIN|fACK, []byte("all")
	r.send(aio.App, next.packet())
	if err := <-w.closed; err != nil {
		t.Errorf("closed with %v", err)
	}
	if w.data.String() != "all" {
		t.Errorf("read %q", w.data.String())
	}
	var got []byte
	for fin := false; !fin; {
		s := r.want(aio.App)
		got = append(got, s.payload...)
		fin = s.flags&fFIN != 0
	}
	if string(got) != "bye" {
		t.Errorf("%q arrived", got)
	}
	select {
	case err := <-w.closed:
		t.Errorf("Closed again, with %v", err)
	case <-time.After(20 * time.Millisecond):
	}
}

func TestHandlerThatComesLater(t *testing.T) {
	conns := make(chan aio.Conn, 1)
	r := newRaw(t, acceptor(nil, conns))
	next := r.connect(aio.App, client4, at(server4, 80))
	c := <-conns
	next.payload = []byte("waiting")
	r.send(aio.App, next.packet())
	r.want(aio.App)
	w := newWatcher()
	r.on(func() {
		buf := make([]byte, 4)
		for range 2 { // Peek takes nothing
			if n, err := c.(interface{ Peek([]byte) (int, error) }).Peek(buf); n != 4 || err != nil || string(buf) != "wait" {
				t.Errorf("peek: %q, %v", buf[:n], err)
			}
		}
		c.SetHandler(w)
		if w.data.Len() > 0 {
			t.Error("the handler was called from inside SetHandler")
		}
	})
	waitFor(t, func() (ok bool) {
		r.on(func() { ok = w.data.String() == "waiting" })
		return ok
	})
	r.on(func() {
		s := c.Stats()
		if s.BytesIn != 7 || s.BytesOut != 0 {
			t.Errorf("%+v", s)
		}
		c.SetHandler(nil)
		c.Reset()
		c.Reset()
		c.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, aio.ErrClosed) {
			t.Errorf("read after reset: %v", err)
		}
		if _, err := c.Write(make([]byte, 1)); !errors.Is(err, aio.ErrClosed) {
			t.Errorf("write after reset: %v", err)
		}
		if err := c.CloseWrite(); !errors.Is(err, aio.ErrClosed) {
			t.Errorf("close-write after reset: %v", err)
		}
	})
}

// TestFragments: a SYN and bytes arrive in pieces, and are one connection.
func TestFragments(t *testing.T) {
	for _, tc := range []struct{ src, dst netip.Addr }{{pod4, server4}, {pod6, server6}} {
		w, conns := newWatcher(), make(chan aio.Conn, 1)
		r := newRaw(t, acceptor(w, conns))
		src, dst := netip.AddrPortFrom(tc.src, 40000), at(tc.dst, 80)
		inPieces := func(s segment) {
			b := s.tcp()
			r.send(aio.App, ipPacket(tc.src, tc.dst, 6, 0x2000, b[:24]))
			r.send(aio.App, ipPacket(tc.src, tc.dst, 6, 3, b[24:]))
		}
		mss := []byte{2, 4, 5, 180, 1, 1, 1, 0}
		// gVisor looks at a reassembled segment's checksum itself.
		inPieces(sealed(segment{src: src, dst: dst, seq: 1000, flags: fSYN, options: mss}))
		sa := r.want(aio.App)
		if sa.flags != fSYN|fACK {
			t.Fatalf("answered with %+v", sa)
		}
		c := <-conns
		next := segment{src: src, dst: dst, seq: 1001, ack: sa.seq + 1, flags: fACK}
		r.send(aio.App, next.packet())
		next.payload = []byte("in two pieces")
		inPieces(sealed(next))
		waitFor(t, func() (ok bool) {
			r.on(func() { ok = w.data.String() == "in two pieces" })
			return ok
		})
		inPieces(sealed(segment{src: netip.AddrPortFrom(tc.src, 1), dst: dst, seq: 1, ack: 9, flags: fACK, payload: make([]byte, 20)}))
		for {
			if s := r.want(aio.App); s.flags&fRST != 0 {
				break // mid-stream, in pieces
			}
		}
		r.silence(aio.Wire)
		if n := r.stack.Counters().App.TCPFragments; n != 6 {
			t.Errorf("%d fragments", n)
		}
		r.on(c.Reset)
	}
}

// sealed is s; its checksum does not matter, for the link vouches for it.
func sealed(s segment) segment { return s }

func TestICMPErrors(t *testing.T) {
	r := newRaw(t, (*netstack.Pending).Refuse)
	icmp := func(typ, code byte, rest uint32, quoted []byte) []byte {
		b := binary.BigEndian.AppendUint32([]byte{typ, code, 0, 0}, rest)
		return ipPacket(netip.MustParseAddr("10.66.0.1"), pod4, 1, 0, append(b, quoted[:28]...))
	}
	dial := func() (<-chan error, segment) {
		done := make(chan error, 1)
		r.on(func() {
			r.stack.Loops()[0].Dial(aio.DialRequest{Side: aio.Wire, Src: netip.AddrPortFrom(pod4, 0), Dst: at(server4, 80), Timeout: 5 * time.Second, Done: func(c aio.Conn, err error) {
				if c != nil {
					c.SetHandler(newWatcher())
				}
				done <- err
			}})
		})
		return done, r.want(aio.Wire)
	}
	for _, tc := range []struct {
		name string
		code byte
		want error
	}{{"port", 3, aio.ErrRefused}, {"host", 1, aio.ErrUnreachable}, {"administration", 13, aio.ErrUnreachable}} {
		done, syn := dial()
		start := time.Now()
		r.send(aio.Wire, icmp(3, tc.code, 0, syn.packet()))
		if err := <-done; !errors.Is(err, tc.want) || time.Since(start) > 100*time.Millisecond {
			t.Errorf("%s unreachable: %v after %v", tc.name, err, time.Since(start))
		}
	}
	// An open connection: unreachable means nothing, too big makes segments smaller.
	done, syn := dial()
	r.send(aio.Wire, segment{src: syn.dst, dst: syn.src, seq: 500, ack: syn.seq + 1, flags: fSYN | fACK, options: []byte{2, 4, 5, 180}}.packet())
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r.send(aio.Wire, icmp(3, 1, 0, syn.packet()))
	r.send(aio.Wire, icmp(3, 4, 100, syn.packet()))
	r.count("a path MTU that is a trap", drops(aio.Wire, packet.ICMPInvalid), 1)
	stranger := segment{src: netip.AddrPortFrom(pod4, 9), dst: at(server4, 9), flags: fACK}
	r.send(aio.Wire, icmp(3, 4, 1000, stranger.packet()))
	r.count("about a stranger", drops(aio.Wire, packet.ICMPUnowned), 1)
	r.silence(aio.App)
}

func TestDialThatFails(t *testing.T) {
	r := newRaw(t, (*netstack.Pending).Refuse)
	l := r.stack.Loops()[0]
	pod, far := netip.AddrPortFrom(pod4, 0), at(server4, 80)
	for _, tc := range []struct {
		name     string
		side     aio.Side
		src, dst netip.AddrPort
		timeout  time.Duration
	}{
		{"no timeout", aio.Wire, pod, far, 0},
		{"no destination", aio.Wire, pod, netip.AddrPort{}, time.Second},
		{"no port", aio.Wire, pod, at(server4, 0), time.Second},
		{"two families", aio.Wire, pod, at(server6, 80), time.Second},
		{"the pod on the wire", aio.Wire, pod, netip.AddrPortFrom(pod4, 80), time.Second},
		{"the world on the app side", aio.App, at(server4, 0), at(server4, 80), time.Second},
		{"not the pod's source on the wire", aio.Wire, at(server4, 0), far, time.Second},
		{"the pod to itself", aio.App, pod, netip.AddrPortFrom(pod4, 80), time.Second},
	} {
		err := make(chan error, 1)
		r.on(func() {
			inside := true
			l.Dial(aio.DialRequest{Side: tc.side, Src: tc.src, Dst: tc.dst, Timeout: tc.timeout, Done: func(_ aio.Conn, e error) {
				if inside {
					t.Errorf("%s: Done was called from inside Dial", tc.name)
				}
				err <- e
			}})
			inside = false
		})
		if e := <-err; e == nil {
			t.Errorf("%s: no error", tc.name)
		}
	}
	err := make(chan error, 2)
	var cancel func()
	start := time.Now()
	r.on(func() {
		cancel = l.Dial(aio.DialRequest{Side: aio.Wire, Src: pod, Dst: far, Timeout: 50 * time.Millisecond, Done: func(_ aio.Conn, e error) { err <- e }})
	})
	if e := <-err; !errors.Is(e, aio.ErrTimeout) || time.Since(start) < 40*time.Millisecond {
		t.Errorf("nobody answers: %v after %v", e, time.Since(start))
	}
	r.on(cancel)
	r.on(func() {
		cancel = l.Dial(aio.DialRequest{Side: aio.Wire, Src: pod, Dst: far, Timeout: time.Minute, Done: func(_ aio.Conn, e error) { err <- e }})
		cancel()
		cancel()
	})
	if e := <-err; !errors.Is(e, aio.ErrClosed) {
		t.Errorf("given up: %v", e)
	}
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer stop()
	if _, e := r.stack.DialContext(ctx, aio.Wire, pod, far); !errors.Is(e, context.DeadlineExceeded) && !errors.Is(e, aio.ErrTimeout) {
		t.Errorf("dial with a deadline: %v", e)
	}
	select {
	case e := <-err:
		t.Errorf("Done was called again, with %v", e)
	default:
	}
}

// TestDialAtTheEnd: a dial that is under way when the stack ends, and one that
// comes too late, are both answered.
func TestDialAtTheEnd(t *testing.T) {
	r := newRaw(t, (*netstack.Pending).Refuse)
	err := make(chan error, 2)
	req := aio.DialRequest{Side: aio.Wire, Src: netip.AddrPortFrom(pod4, 0), Dst: at(server4, 80), Timeout: time.Minute}
	r.on(func() {
		l := r.stack.Loops()[0]
		req.Done = func(_ aio.Conn, e error) {
			err <- e
			req.Done = func(_ aio.Conn, e error) { err <- e }
			l.Dial(req)
		}
		l.Dial(req)
	})
	r.stop()
	for range 2 {
		if e := <-err; !errors.Is(e, aio.ErrClosed) {
			t.Errorf("dial: %v", e)
		}
	}
	if _, e := r.stack.DialContext(t.Context(), aio.Wire, req.Src, req.Dst); !errors.Is(e, aio.ErrClosed) {
		t.Errorf("dial after the end: %v", e)
	}
}

// TestLossIsHealed: every 50th packet is lost in both directions.
func TestLossIsHealed(t *testing.T) {
	w := newWorld(t, through, serve(echo))
	lossy := func() memlink.Tap {
		n := 0
		return func(tun.Header, []byte) (memlink.Verdict, error) {
			if n++; n%50 == 0 {
				return memlink.Lose, nil
			}
			return memlink.Pass, nil
		}
	}
	for _, e := range []*memlink.End{w.appEnd, w.wireEnd, w.hostApp, w.hostServer} {
		e.SetTap(lossy())
	}
	c := w.dial(at(server4, 80))
	ping(t, c, 4<<20)
}

// TestDeviceThatReturnsErrors: passing errors, reading and writing, are survived
// and counted.
func TestDeviceThatReturnsErrors(t *testing.T) {
	w := newWorld(t, through, serve(echo))
	c := w.dial(at(server4, 80))
	ping(t, c, 1000)
	n := 0
	w.wireEnd.SetTap(func(tun.Header, []byte) (memlink.Verdict, error) {
		if n++; n%20 == 0 {
			return memlink.Fault, unix.EIO
		}
		return memlink.Pass, nil
	})
	w.appEnd.SetFault(unix.EIO)
	time.AfterFunc(50*time.Millisecond, func() { w.appEnd.SetFault(nil) })
	ping(t, c, 1<<20)
	got := w.hop.Counters()
	if got.App.ReadErrors == 0 || got.App.ReadErrors > 20 {
		t.Errorf("%d read errors were counted in 50 ms", got.App.ReadErrors)
	}
	if got.Wire.WriteErrors == 0 {
		t.Error("no write error was counted")
	}
}

func TestDeviceThatIsGone(t *testing.T) {
	w := newWorld(t, through, serve(echo), expectError)
	c := w.dial(at(server4, 80))
	ping(t, c, 1000)
	w.appEnd.SetFault(tun.ErrGone)
	waitFor(t, func() bool { return !w.hop.Loops()[0].Post(func() {}) })
	w.stop()
	w.ended.Wait()
	if err := w.errs[1]; !errors.Is(err, tun.ErrGone) {
		t.Errorf("run: %v", err)
	}
}

func TestDeviceThatNeverRecovers(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until patience ends")
	}
	w := newWorld(t, through, serve(echo), expectError)
	w.appEnd.SetFault(unix.EIO)
	start := time.Now()
	waitForLong(t, 10*time.Second, func() bool { return !w.hop.Loops()[0].Post(func() {}) })
	if took := time.Since(start); took < 4*time.Second {
		t.Errorf("gave up after %v", took)
	}
	w.stop()
	w.ended.Wait()
	if err := w.errs[1]; !errors.Is(err, unix.EIO) {
		t.Errorf("run: %v", err)
	}
}

func waitForLong(t *testing.T, limit time.Duration, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("did not happen within %v", limit)
		}
	}
}
