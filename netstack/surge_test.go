package netstack

import (
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/packet"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

// slow is a loop for which each new connection takes a time of its own to begin, as
// on a machine that has little for it.
type slow struct {
	*still
	e     *ends
	began int
	cost  time.Duration
	start time.Duration
}

func newSlow(t *testing.T, cost time.Duration, answer func(*Pending)) *slow {
	t.Helper()
	e := &ends{}
	s := &slow{e: e, cost: cost}
	s.still = newStill(t, accepting(t, e))
	s.l.doors[aio.App].opening.max, s.l.doors[aio.App].places.max = 1<<20, 1<<20
	s.open(t, e, 40001)
	s.l.s.cfg.OnSYN = func(p *Pending) {
		s.began++
		s.l.clock.base = s.l.clock.base.Add(-s.cost)
		answer(p)
	}
	s.start = s.l.clock.now
	return s
}

// put is send without a pass.
func (s *slow) put(t *testing.T, b []byte) {
	t.Helper()
	if err := s.far[aio.App].Write(&tun.Header{Flags: tun.NeedsChecksum}, [][]byte{b}); err != nil {
		t.Fatal(err)
	}
}

// flood puts n SYNs of ports of their own into the queue, and behind them a byte of
// the connection that is there.
func (s *slow) flood(t *testing.T, port uint16, n int) {
	t.Helper()
	for i := range n {
		s.put(t, fuzzTCP(4, port+uint16(i), 1000, 0, 2, nil)) //nolint:gosec // below 65,536
	}
	s.put(t, fuzzTCP(4, 40001, 1001+uint32(s.e.read), s.iss(s.e)+1, 24, []byte("x"))) //nolint:gosec // few
}

// TestSYNsGiveWayToConnections: while SYNs cost more than the loop has, they do not
// begin connections, and what is under way goes on; when they stop, all may again.
func TestSYNsGiveWayToConnections(t *testing.T) {
	const each = 3 * time.Millisecond // 200 µs where 6 % of a processor are there
	s := newSlow(t, each, func(*Pending) {})
	var before []int // of each round's byte, SYNs that began a connection
	sent := 0
	for round := range 20 {
		n, began := s.e.read, s.began
		s.flood(t, uint16(1000+round*1000), 1000) //nolint:gosec // below 40,000
		sent += 1000
		for s.e.read == n {
			s.pass(t)
		}
		before = append(before, s.began-began)
	}
	drops := s.l.s.Counters().App.Drops
	t.Logf("%d of %d SYNs began a connection, %d were shed; each byte waited for %v", s.began, sent, drops[packet.SYNLimit], before)
	waiting := s.l.young.syns[aio.App].len()
	if n := int(drops[packet.SYNLimit] + drops[packet.PendingLimit]); drops[packet.SYNLimit] == 0 || n+s.began+waiting != sent { //nolint:gosec // few
		t.Errorf("%d shed, %d begun and %d waiting of %d", n, s.began, waiting, sent)
	}
	for i, n := range before {
		if n > 32 { // one in a pass of 64 packets, of 1,000
			t.Errorf("round %d: a byte waited for %d of 1,000 SYNs", i, n)
		}
	}
	s.cost = 0
	for s.l.young.len() > 0 {
		s.pass(t)
	}
	s.sleep(t, 2*time.Second, nil)
	s.began = 0
	for port := range uint16(100) {
		s.put(t, fuzzTCP(4, 42000+port, 1000, 0, 2, nil))
	}
	for range 100 {
		s.pass(t)
	}
	if s.began != 100 {
		t.Errorf("%d of 100 begin after the flood", s.began)
	}
}

// TestClientsWhoMeanItAreNotShed: handshakes that end well are no flood, however
// busy the loop is with them. (A pause of the test's own may cost a few of them.)
func TestClientsWhoMeanItAreNotShed(t *testing.T) {
	s := newSlow(t, 3*time.Millisecond, nil)
	port, live := uint16(1000), 0
	s.l.s.cfg.OnSYN = func(p *Pending) {
		s.began++
		s.l.clock.base = s.l.clock.base.Add(-s.cost)
		c, err := p.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		s.put(t, fuzzTCP(4, p.Src.Port(), 1001, c.(*conn).flow.ISS+1, 16, nil))
		live++
	}
	for live < 1000 { // the queue is never empty
		for range 64 {
			if s.began+100 > int(port)-1000 { //nolint:gosec // few
				s.put(t, fuzzTCP(4, port, 1000, 0, 2, nil))
				port++
			}
			s.put(t, fuzzTCP(4, 40001, 1001, s.iss(s.e)+1, 16, nil))
		}
		s.pass(t)
	}
	if n := int(s.l.s.Counters().App.Drops[packet.SYNLimit]); n*10 > live { //nolint:gosec // few
		t.Errorf("%d were shed, %d live", n, live)
	}
}

// TestSurge: there is no bound until the loop was behind for as long as clients wait
// before they ask again; then it halves while the loop is behind, grows when it is
// not, and goes when nobody meets it.
func TestSurge(t *testing.T) {
	var s surge
	now := time.Second
	step := func(drained bool, came int) int {
		t.Helper()
		now += surgeEvery
		s.tick(now)
		s.stands = !drained
		for range came {
			if s.passed = 0; s.full() {
				s.shed++
			} else {
				s.begin()
			}
		}
		return s.began
	}
	for range 2 {
		step(true, 1000) // it keeps up
	}
	for i := range int(surgePatience / surgeEvery) {
		if n := step(false, 1000); n != 1000 {
			t.Fatalf("only %d begin when the loop was behind for %d intervals", n, i)
		}
	}
	for i, tc := range []struct {
		drained     bool
		came, began int
	}{
		{false, 1000, 500}, {false, 1000, 250}, {false, 1000, 125}, {false, 1000, 62},
		{false, 1000, 31}, {false, 1000, 15}, {false, 1000, surgeLeast}, {true, 1000, surgeLeast},
		{true, 1000, 2 * surgeLeast}, {true, 1000, 3 * surgeLeast}, {true, 10, 10}, {true, 1000, 1000},
		{false, 3, 3}, {false, 3, 3}, {false, 3, 3}, // few are not why
		{true, 3, 3}, {true, 3, 3},
		{false, 1000, 1000}, {false, 1000, 500}, // one that comes again so soon is not waited for
	} {
		if n := step(tc.drained, tc.came); n != tc.began {
			t.Errorf("interval %d: %d began, want %d", i, n, tc.began)
		}
	}
	step(true, 1000)
	step(true, 1)
	step(true, 1)
	now += surgeMemory
	step(true, 1)
	for i := range int(surgePatience / surgeEvery) {
		if n := step(false, 1000); n != 1000 {
			t.Fatalf("long after a flood only %d begin when the loop was behind for %d intervals", n, i)
		}
	}
	s = surge{most: 2 * surgeTurns, opened: 20, began: 39, passed: 39}
	if s.full() {
		t.Error("full below twice what opened")
	}
	if s.begin(); !s.full() {
		t.Error("no bound on a turn")
	}
	if s.passed = 1; s.full() {
		t.Error("full before the turn's second")
	}
	if s.began = s.most; !s.full() {
		t.Error("no bound")
	}
}
