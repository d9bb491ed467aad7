package tunproxy_test

import (
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/test/siege/attack"
	"github.com/tunmesh/tunmesh/tunproxy"
)

// An onslaught is an attack, the metric that counts it, and the lines that it
// stays under.
type onslaught struct {
	name   string
	tune   func(*tunproxy.Config)
	attack func(s *siege) (end func())
	serve  int                // bytes of the app's answers to the attacker, which have no end
	app    func() aio.Handler // of the app's connections; nil: it speaks HTTP/2, and takes all
	metric string
	labels []string
	least  float64 // counted; 0: 1
	line   int64   // of the heap; 0: 32 MiB
	after  func(s *siege)
}

// ownLine is how much processor time the sidecar's loop may spend on others
// while somebody's request or response is with it, at the ninetieth percentile:
// a turn of each of eight connections that give it as much as a turn may have.
const ownLine = 5 * time.Millisecond

func besieged(t *testing.T, attacks []onslaught) {
	unraced(t)
	for _, c := range attacks {
		t.Run(c.name, func(t *testing.T) { newSiege(t, c.tune).withstand(c) })
	}
}

// unraced skips what the race detector would be measured by; make test has a run
// without it.
func unraced(t *testing.T) {
	if raced {
		t.Skip("the race detector would be what is measured; the run without it judges")
	}
}

// withstand judges one attack.
func (s *siege) withstand(c onslaught) {
	t := s.T
	t.Helper()
	if c.app == nil {
		c.app = func() aio.Handler { return &cheap{bytes: c.serve, of: s} }
	}
	s.serveApp(c.app)
	c.least = max(c.least, 1)
	at := s.b
	if s.cutsOff != nil {
		at = s.cutsOff
	}
	counted := func() float64 { return at.metric(c.metric, c.labels...) }
	none := counted()
	base := live()
	f := s.judge(func() func() { return c.attack(s) })
	n := 0.0 // what some metrics count is let go of afterwards
	high := s.highest(base, c.attack, func() bool {
		n = max(n, counted()-none)
		return n >= c.least
	})
	n = max(n, counted()-none)
	t.Logf("%-45s p99 of others %v, attacked %v: × %.2f (by itself × %.2f, %d pairs); the sidecar's part %v, attacked %v: × %.2f; heap + %d MiB; %v counted",
		c.name, f.before, f.during, f.ratio(), f.again, f.pairs, f.ownBefore, f.own, f.sidecars(), high/mib, n)
	if f.own > ownLine {
		t.Errorf("others' requests wait for %v of work that is the attacker's, the line is %v", f.own, ownLine)
	}
	// The line: attackers and their kernels, in this process, included.
	if c.line == 0 {
		c.line = 32 * mib
	}
	if high > c.line {
		t.Errorf("%d MiB above what it was, the line is %d", high/mib, c.line/mib)
	}
	if n < c.least {
		t.Errorf("%s%v counts %v, want %v", c.metric, c.labels, n, c.least)
	}
	if c.after != nil {
		c.after(s)
	}
}

// highest is by how much the heap grows during a second of the attack, and until
// it was counted. With a small GC percent it is little above what is live.
func (s *siege) highest(base int64, attack func(*siege) func(), met func() bool) (top int64) {
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	live() // the turns before left garbage: buffers of attackers and kernels, in this process
	end := attack(s)
	least := time.Second
	if !judging() {
		least = 300 * time.Millisecond
	}
	for began := time.Now(); time.Since(began) < least || !met() && time.Since(began) < 2*time.Minute; time.Sleep(20 * time.Millisecond) {
		top = max(top, heap()-base-s.kernels())
	}
	end()
	s.gone()
	return top
}

// played is an attack over stacks in memory.
func played(a attack.Attack) onslaught {
	o := onslaught{name: a.Name, metric: a.Metric, labels: a.Labels, serve: a.App.Bytes}
	if a.App.Endless {
		o.app = endlessApp()
	}
	r := replay{Replay: a.Replay, dst: flooded}
	if a.Bystander {
		r.dst = smallWeb
	}
	o.attack = func(s *siege) func() {
		var n replayed
		return r.start(s.out, &n)
	}
	return o
}

// TestFloods: what one client sends in masses ends with its connection, is
// counted, needs little memory, and nobody else notices.
func TestFloods(t *testing.T) {
	var attacks []onslaught
	for _, a := range attack.Floods() {
		o := played(a)
		if strings.HasPrefix(a.Name, "heads of ") {
			o.line = 96 * mib // 64 connections have room for a megabyte of fields each
		}
		attacks = append(attacks, o)
	}
	besieged(t, attacks)
}

// TestSlowSieges: clients who hold what they can, for as long as they can, and
// move no faster than they must. Times and bounds are made short, so that they
// are met.
func TestSlowSieges(t *testing.T) {
	small := func(c *tunproxy.Config) { c.Limits.HTTPBytes, c.Limits.TCPBytes = 4*mib, 16*mib }
	few := func(c *tunproxy.Config) { c.Limits.Connections = 1000 }
	how := map[string]onslaught{
		"windows of 0":                        {tune: small, line: 64 * mib},
		"10,000 streams that wait":            {line: 10_000 * 16 << 10},
		"slow heads":                          {tune: tuned},
		"slow bodies":                         {tune: tuned},
		"readers who read nothing":            {tune: small, line: 64 * mib},
		"slow readers":                        {tune: tuned, line: 64 * mib},
		"connections that never speak":        {tune: few},
		"connections that begin to speak":     {tune: few},
		"TLS handshakes that are half done":   {line: 64 * mib},
		"TLS handshakes that come to nothing": {line: 64 * mib},
		"100,000 connections, 2,000 a second": {least: 2000},
	}
	if judging() {
		how["100,000 connections, 2,000 a second"] = onslaught{least: 100_000, line: 96 * mib}
	}
	var attacks []onslaught
	hello, err := attack.Hello(id("b").ServerName())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attack.Sieges(hello) {
		o := played(a)
		h, ok := how[a.Name]
		if !ok {
			t.Errorf("nobody says what %s may cost", a.Name)
		}
		o.tune, o.line, o.least = h.tune, h.line, h.least
		attacks = append(attacks, o)
	}
	besieged(t, attacks)
}
