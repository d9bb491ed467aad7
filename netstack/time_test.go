package netstack

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/packet"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

// ends records how a connection ended.
type ends struct {
	conn   aio.Conn
	closed bool
	err    error
	read   int
}

func (e *ends) Readable(c aio.Conn) {
	var buf [4096]byte
	for {
		n, err := c.Read(buf[:])
		e.read += n
		if err != nil {
			return
		}
	}
}
func (*ends) Writable(aio.Conn)              {}
func (e *ends) Closed(_ aio.Conn, err error) { e.closed, e.err = true, err }

// open shakes hands on the app side and returns the connection's end.
func (s *still) open(t *testing.T, e *ends, port uint16) {
	t.Helper()
	s.send(t, aio.App, fuzzTCP(4, port, 1000, 0, 2, nil))
	if e.conn == nil {
		t.Fatal("not accepted")
	}
	s.send(t, aio.App, fuzzTCP(4, port, 1001, s.iss(e)+1, 16, nil))
	if e.conn.(*conn).shaking {
		t.Fatal("the handshake is not over")
	}
}

func (s *still) iss(e *ends) uint32 { return e.conn.(*conn).flow.ISS }

func (s *still) send(t *testing.T, side aio.Side, b []byte) {
	t.Helper()
	if err := s.far[side].Write(&tun.Header{Flags: tun.NeedsChecksum}, [][]byte{b}); err != nil {
		t.Fatal(err)
	}
	s.pass(t)
}

// sleep lets time pass in small steps, calling each in between.
func (s *still) sleep(t *testing.T, d time.Duration, each func()) {
	t.Helper()
	const step = 100 * time.Millisecond
	for ; d > 0; d -= step {
		s.l.clock.base = s.l.clock.base.Add(-step)
		s.pass(t)
		if each != nil {
			each()
		}
	}
}

func accepting(t *testing.T, e *ends) func(*Pending) {
	return func(p *Pending) {
		c, err := p.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		e.conn = c
		c.SetHandler(e)
	}
}

func TestDeadPeerWithBytesUnderWay(t *testing.T) {
	e := &ends{}
	s := newStill(t, accepting(t, e))
	s.open(t, e, 40001)
	if _, err := e.conn.Write([]byte("is anybody there?")); err != nil {
		t.Fatal(err)
	}
	s.sleep(t, 30*time.Second, nil)
	if e.closed {
		t.Fatal("gave up within 30 s")
	}
	s.sleep(t, 60*time.Second, nil)
	if !e.closed || !errors.Is(e.err, aio.ErrTimeout) {
		t.Errorf("after 90 s: closed %v, %v", e.closed, e.err)
	}
	if n := e.conn.Stats().Retransmits; n < 5 {
		t.Errorf("%d retransmissions", n)
	}
	if len(s.l.flows[aio.App]) != 0 {
		t.Error("the connection is still in the table")
	}
}

func TestDeadPeerOfAnIdleConnection(t *testing.T) {
	e := &ends{}
	s := newStill(t, accepting(t, e))
	s.open(t, e, 40001)
	s.sleep(t, 59*time.Second, nil)
	if e.closed {
		t.Fatal("an idle connection was ended")
	}
	s.sleep(t, 45*time.Second, nil)
	if !e.closed || !errors.Is(e.err, aio.ErrTimeout) {
		t.Errorf("closed %v, %v", e.closed, e.err)
	}
}

// TestLivingPeers: one that answers probes, and one that keeps its window shut
// and says so, may stay for ever.
func TestLivingPeers(t *testing.T) {
	e := &ends{}
	s := newStill(t, accepting(t, e))
	s.open(t, e, 40001)
	shut := fuzzTCP(4, 40001, 1001, s.iss(e)+1, 16, nil)
	binary.BigEndian.PutUint16(shut[34:], 0)
	s.send(t, aio.App, shut)
	if _, err := e.conn.Write(make([]byte, 10_000)); err != nil {
		t.Fatal(err)
	}
	n := 0
	s.sleep(t, 10*time.Minute, func() {
		if n++; n%20 == 0 {
			s.send(t, aio.App, shut)
		}
	})
	if e.closed {
		t.Fatalf("a reader that pauses was cut off: %v", e.err)
	}
	s.send(t, aio.App, fuzzTCP(4, 40001, 1001, s.iss(e)+1, 16, nil)) // reads on
	idle := &ends{}
	s.l.s.cfg.OnSYN = accepting(t, idle)
	s.open(t, idle, 40005)
	n = 0
	s.sleep(t, 10*time.Minute, func() {
		if n++; n%50 == 0 {
			s.send(t, aio.App, fuzzTCP(4, 40005, 1001, s.iss(idle)+1, 16, nil))
		}
	})
	if idle.closed {
		t.Errorf("an idle peer that answers was cut off: %v", idle.err)
	}
}

// TestTinySegments: what a peer can make us hold is bounded by the receive
// buffer, overhead included, however small its segments are.
func TestTinySegments(t *testing.T) {
	e := &ends{}
	s := newStill(t, func(p *Pending) {
		c, err := p.Accept()
		if err != nil {
			t.Error(err)
		}
		e.conn = c // nobody reads
	})
	s.open(t, e, 40001)
	for i := range 20_000 {
		s.send(t, aio.App, fuzzTCP(4, 40001, 1001+uint32(i), s.iss(e)+1, 16, []byte{1}))
	}
	unread := e.conn.(*conn).unread()
	if unread == 0 || unread > 2000 {
		t.Errorf("%d segments of one byte are held", unread)
	}
}

// TestSilentPeerAfterTheEnd: who never closes is given up a minute after we did,
// with what came out of order.
func TestSilentPeerAfterTheEnd(t *testing.T) {
	e := &ends{}
	s := newStill(t, accepting(t, e))
	s.open(t, e, 40001)
	next := s.iss(e) + 1
	s.send(t, aio.App, fuzzTCP(4, 40001, 1101, next, 16, make([]byte, 100)))
	e.conn.Close()
	s.pass(t)
	s.send(t, aio.App, fuzzTCP(4, 40001, 1001, next+1, 16, nil))
	if s.l.memory.used == 0 {
		t.Fatal("what came out of order is not held")
	}
	s.sleep(t, 62*time.Second, nil)
	if n, held := len(s.l.flows[aio.App]), s.l.memory.used; n != 0 || held != 0 {
		t.Errorf("%d connections are left, %d bytes", n, held)
	}
}

// TestTupleIsUsedAgain: a client that comes back from the same port at once is
// a new connection.
func TestTupleIsUsedAgain(t *testing.T) {
	e := &ends{}
	s := newStill(t, accepting(t, e))
	for round := range 3 {
		*e = ends{}
		s.open(t, e, 40001)
		next := s.iss(e) + 1
		s.send(t, aio.App, fuzzTCP(4, 40001, 1001, next, 17, nil)) // FIN
		if round == 0 {
			e.conn.Close() // ours goes first once, theirs afterwards
		} else if _, err := e.conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("read: %v", err)
		} else {
			e.conn.Close()
		}
		s.pass(t)
		s.send(t, aio.App, fuzzTCP(4, 40001, 1002, next+1, 16, nil))
	}
	if n := len(s.l.flows[aio.App]); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

func TestDialsFromOnePortOfTheClient(t *testing.T) {
	s := newStill(t, (*Pending).Refuse)
	pod, client := netip.MustParseAddr("10.1.0.5"), netip.MustParseAddrPort("192.0.2.1:4000")
	var errs []error
	dial := func(port uint16) {
		s.l.Dial(aio.DialRequest{Side: aio.App, Src: client, Dst: netip.AddrPortFrom(pod, port), Timeout: time.Minute, Done: func(_ aio.Conn, err error) {
			errs = append(errs, err)
		}})
		s.pass(t)
	}
	dial(80)
	dial(81)
	if len(errs) != 0 {
		t.Fatalf("two ports of the pod: %v", errs)
	}
	dial(80)
	if len(errs) != 1 || errs[0] == nil {
		t.Errorf("the same tuple twice: %v", errs)
	}
}

// TestAcksComeInTime: while nobody is busy, bytes are acknowledged before the
// loop sleeps; and once the ends take turns, with the answer.
func TestAcksComeInTime(t *testing.T) {
	e := &ends{}
	s := newStill(t, accepting(t, e))
	s.open(t, e, 40001)
	sent := func() uint64 { return s.l.links[aio.App].Counters.TxPackets.Load() }
	seq := uint32(1001)
	receive := func() {
		s.send(t, aio.App, fuzzTCP(4, 40001, seq, s.iss(e)+1, 24, []byte("ping")))
		seq += 4
	}
	before := sent()
	if receive(); sent() != before+1 {
		t.Errorf("%d packets answered a message that nobody replied to", sent()-before)
	}
	for range 3 {
		receive()
		_, _ = e.conn.Write([]byte("pong"))
		s.pass(t)
	}
	before = sent()
	receive()
	if sent() != before {
		t.Error("an ACK left although the answer was about to")
	}
	s.sleep(t, 100*time.Millisecond, nil)
	if sent() == before {
		t.Error("no ACK left although no answer came")
	}
}

func TestReasonsAreCounted(t *testing.T) {
	s := newStill(t, (*Pending).Refuse)
	s.send(t, aio.App, []byte{0x45})
	bad := fuzzTCP(4, 40001, 1, 1, 16, nil)
	bad[32] = 0x40 // a header of 16 bytes
	s.send(t, aio.App, bad)
	if err := s.far[aio.App].Write(&tun.Header{}, [][]byte{fuzzTCP(4, 40001, 1, 1, 16, nil)}); err != nil {
		t.Fatal(err) // nobody vouches for its checksum
	}
	s.pass(t)
	got := s.l.s.Counters().App.Drops
	if got[packet.Malformed] != 2 || got[packet.BadChecksum] != 1 {
		t.Errorf("%v", got)
	}
}

// TestPodsOwnAddressFromTheWire: nobody on the wire speaks with the pod's own
// address, in either family; it is dropped and counted.
func TestPodsOwnAddressFromTheWire(t *testing.T) {
	s := newStill(t, func(*Pending) { t.Error("a connection") })
	for _, version := range []byte{4, 6} {
		b := fuzzTCP(version, 40001, 1, 0, 2, nil)
		if version == 4 {
			copy(b[16:20], b[12:16])
			fixChecksum(b)
		} else {
			copy(b[24:40], b[8:24])
		}
		s.send(t, aio.Wire, b)
	}
	got := s.l.s.Counters()
	if got.Wire.Drops[packet.Martian] != 2 || got.App.TxPackets != 0 || got.Wire.TxPackets != 0 {
		t.Errorf("dropped %v; sent %d and %d", got.Wire.Drops, got.App.TxPackets, got.Wire.TxPackets)
	}
}

// piece is a part of a TCP segment as a fragment of one family, of number id.
func piece(version, id byte, segment []byte, from, to int) []byte {
	header := 20
	if version == 6 {
		header = 40
	}
	last := to == len(segment)-header
	ip, part := append([]byte(nil), segment[:header]...), segment[header+from:header+to]
	if version == 4 {
		ip[5] = id
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(part)))
		binary.BigEndian.PutUint16(ip[6:], uint16(from/8))
		if !last {
			ip[6] |= 0x20
		}
		fixChecksum(ip)
		return append(ip, part...)
	}
	f := []byte{ip[6], 0, 0, 0, 0, 0, 0, id}
	binary.BigEndian.PutUint16(f[2:], uint16(from))
	if !last {
		f[3] |= 1
	}
	ip[6] = 44
	binary.BigEndian.PutUint16(ip[4:], uint16(8+len(part)))
	return append(append(ip, f...), part...)
}

// TestPiecesThatStayPieces: pieces that overlap, and a first piece whose rest
// does not come, are dropped and counted.
func TestPiecesThatStayPieces(t *testing.T) {
	for _, version := range []byte{4, 6} {
		s := newStill(t, func(*Pending) { t.Error("a connection") })
		whole := fuzzTCP(version, 40001, 1, 0, 2, make([]byte, 28))
		s.send(t, aio.App, piece(version, 1, whole, 0, 24))
		s.send(t, aio.App, piece(version, 1, whole, 16, 48))
		if n := s.l.s.Counters().App.Drops[packet.Reassembly]; n != 1 {
			t.Errorf("IPv%d: %d counted of pieces that overlap", version, n)
		}
		s.send(t, aio.App, piece(version, 2, whole, 0, 24))
		s.sleep(t, 61*time.Second, nil)
		if n := s.l.s.Counters().App.Drops[packet.Reassembly]; n != 2 {
			t.Errorf("IPv%d: %d counted when the rest stayed away", version, n)
		}
		if n := s.l.s.Counters().Wire.TxPackets; n != 0 {
			t.Errorf("IPv%d: %d packets on the wire", version, n)
		}
	}
}
