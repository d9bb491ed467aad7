package tunproxy_test

import (
	"bytes"
	"crypto/tls"
	"net"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/tunproxy"
	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/hpack"
	"github.com/tunmesh/tunmesh/tunproxy/message"
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
	high := s.highest(base, c.attack, func() bool {
		return counted()-none >= c.least
	})
	n := counted() - none
	t.Logf("%-45s p99 of others %v, attacked %v: × %.2f (by itself × %.2f, %d pairs); the sidecar's part %v, attacked %v: × %.2f; heap + %d MiB; %v counted",
		c.name, f.before, f.during, f.ratio(), f.again, f.pairs, f.ownBefore, f.own, f.sidecars(), high/mib, n)
	if f.ratio() > 2 && judging() {
		t.Errorf("the p99 of others is %.2f times what it was", f.ratio())
	}
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

// flood makes the bytes of an attacker, who begins 50 connections a second.
func flood(settings []frame.Setting, gives time.Duration, fill func(a *attacker)) func(*siege) func() {
	a := &attacker{enc: hpack.NewEncoder(4096), id: 1}
	a.b = frame.AppendSettingsAck(frame.AppendSettings([]byte(frame.Preface), settings...))
	fill(a)
	r := replay{dst: flooded, bytes: a.b, every: 20 * time.Millisecond, atOnce: 8, gives: gives}
	return func(s *siege) func() {
		var n replayed
		end := r.start(s.out, &n)
		return end
	}
}

// TestFloods: what one client sends in masses ends with its connection, is
// counted, needs little memory, and nobody else notices.
func TestFloods(t *testing.T) {
	u32 := func(n uint32) string { return string([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) }
	bomb := strings.Repeat("b", 3900)
	const cut, stays = 5 * time.Second, 20 * time.Millisecond
	broken := func(why string) []string { return []string{`reason="` + why + `"`} }
	var attacks []onslaught
	add := func(name, metric string, labels []string, gives time.Duration, fill func(a *attacker)) {
		attacks = append(attacks, onslaught{name: name, metric: metric, labels: labels, attack: flood(nil, gives, fill)})
	}
	add("rapid reset", "http2_broken_total", broken("resets"), cut, func(a *attacker) { a.b = resets(3000) })
	add("MadeYouReset by a window update of 0", "http2_broken_total", broken("resets"), cut, func(a *attacker) {
		for range 3000 {
			a.b = frame.AppendWindowUpdate(a.b, a.headers(true, "GET"), 0)
		}
	})
	add("MadeYouReset by DATA after the end", "http2_broken_total", broken("resets"), cut, func(a *attacker) {
		for range 3000 {
			a.b = frame.AppendData(a.b, a.headers(true, "GET"), []byte("x"), true)
		}
	})
	add("MadeYouReset by a self-dependency", "http2_broken_total", broken("control frames"), cut, func(a *attacker) {
		for range 3000 {
			id := a.headers(true, "GET")
			a.raw(frame.Priority, 0, id, u32(id)+"\x01")
		}
	})
	add("CONTINUATION", "http2_broken_total", broken("continuations"), cut, func(a *attacker) {
		a.raw(frame.Headers, 0, 1, "\x82\x86\x84")
		for range 3000 {
			a.raw(frame.Continuation, 0, 1, "\x00\x01a\x01b")
		}
	})
	add("SETTINGS", "http2_broken_total", broken("control frames"), cut, func(a *attacker) {
		for range 5000 {
			a.b = frame.AppendSettings(a.b)
		}
	})
	add("PING", "http2_broken_total", broken("control frames"), cut, func(a *attacker) {
		for range 5000 {
			a.b = frame.AppendPing(a.b, false, 1)
		}
	})
	add("PRIORITY", "http2_broken_total", broken("control frames"), cut, func(a *attacker) {
		for range 5000 {
			a.raw(frame.Priority, 0, 99, u32(1)+"\x01")
		}
	})
	add("empty DATA", "http2_broken_total", broken("empty frames"), cut, func(a *attacker) {
		id := a.headers(false, "POST")
		for range 5000 {
			a.b = frame.AppendData(a.b, id, nil, false)
		}
	})
	add("DATA of a byte", "http2_paused_total", nil, stays, func(a *attacker) {
		id := a.headers(false, "POST")
		for range 20_000 {
			a.b = frame.AppendData(a.b, id, []byte("x"), false)
		}
	})
	add("HPACK bombs", "http2_broken_total", broken("header bombs"), cut, func(a *attacker) {
		for i := range 50 {
			block := a.enc.Begin(nil)
			for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", "/"}, {":authority", "b"}} {
				block = a.enc.Append(block, f[0], f[1], hpack.Without)
			}
			if i == 0 {
				block = a.enc.Append(block, "x-bomb", bomb, hpack.Always)
			} else {
				block = append(block, bytes.Repeat([]byte{0x80 | 62}, 14_000)...) // what was indexed last
			}
			a.b = frame.AppendHeaders(a.b, a.id, block, true, frame.MinMaxSize)
			a.id += 2
		}
	})
	add("header lists that are too large", "http2_oversize_total", nil, stays, func(a *attacker) {
		for i := range 5 {
			a.headers(true, "GET", "x-a", strings.Repeat(string(rune('A'+i)), 40_000), "x-b", strings.Repeat("b", 40_000))
		}
	})
	for _, f := range []struct{ name, field string }{{"heads of 500 fields", "\x00\x01c\x01d"}, {"heads of 500 fields of a byte", "\xbe"}} {
		add(f.name, "http2_paused_total", nil, cut, func(a *attacker) { a.b = wide(3000, f.field) })
		attacks[len(attacks)-1].line = 224 * mib // HTTP may hold 128
	}
	attacks = append(attacks, onslaught{name: "heads of 500 fields on 64 connections", metric: "http2_paused_total", line: 224 * mib, attack: func(s *siege) func() {
		var n replayed
		return replay{dst: flooded, bytes: wide(1000, "\x00\x01c\x01d"), begin: 8, every: 20 * time.Millisecond, atOnce: 64, gives: cut}.start(s.out, &n)
	}})
	attacks = append(attacks, onslaught{name: "tiny windows", metric: "http2_broken_total", labels: broken("empty frames"), serve: 4 << 10, attack: func(s *siege) func() {
		a := &attacker{enc: hpack.NewEncoder(4096), id: 1}
		a.b = frame.AppendSettingsAck(frame.AppendSettings([]byte(frame.Preface), frame.Setting{ID: frame.InitialWindowSize, Value: 1}))
		for range 50 {
			a.headers(true, "GET", ":path", "/large")
		}
		first := a.b
		a.b = nil
		for id := uint32(1); id < a.id; id += 2 {
			a.b = frame.AppendWindowUpdate(a.b, id, 1)
		}
		var n replayed
		return replay{dst: flooded, bytes: first, then: a.b, gap: 500 * time.Microsecond, every: 20 * time.Millisecond, atOnce: 8, gives: cut}.start(s.out, &n)
	}})
	besieged(t, attacks)
}

// resets are so many requests, each taken back at once.
func resets(n int) []byte {
	a := &attacker{enc: hpack.NewEncoder(4096), id: 1}
	a.b = frame.AppendSettingsAck(frame.AppendSettings([]byte(frame.Preface)))
	for range n {
		a.b = frame.AppendRST(a.b, a.headers(true, "GET"), message.Cancel)
	}
	return a.b
}

// wide are so many requests of 500 fields each, all but one as given. The first
// puts that one into the table.
func wide(n int, field string) []byte {
	a := &attacker{id: 1}
	a.b = frame.AppendSettingsAck(frame.AppendSettings([]byte(frame.Preface)))
	for i := range n {
		one := "\x00\x01a\x01b"
		if i == 0 {
			one = "\x40\x01a\x01b"
		}
		a.b = frame.AppendHeaders(a.b, a.id, []byte("\x82\x86\x84\x01\x01b"+one+strings.Repeat(field, 499)), true, frame.MinMaxSize)
		a.id += 2
	}
	return a.b
}

// requests are so many of them on one HTTP/2 connection.
func requests(n int, end bool, settings []frame.Setting, kv ...string) []byte {
	a := &attacker{enc: hpack.NewEncoder(4096), id: 1}
	a.b = frame.AppendSettingsAck(frame.AppendSettings([]byte(frame.Preface), settings...))
	method := "GET"
	if !end {
		method = "POST"
	}
	for range n {
		a.headers(end, method, kv...)
	}
	return a.b
}

// TestSlowSieges: clients who hold what they can, for as long as they can, and
// move no faster than they must.
func TestSlowSieges(t *testing.T) {
	hold := func(r replay) func(*siege) func() {
		return func(s *siege) func() {
			var n replayed
			if r.atOnce == 0 {
				r.atOnce = r.begin
			}
			if r.dst == "" {
				r.dst = flooded
			}
			return r.start(s.out, &n)
		}
	}
	slow := func(what string) []string { return []string{`what="` + what + `"`} }
	small := func(c *tunproxy.Config) { c.Limits.HTTPBytes, c.Limits.TCPBytes = 4*mib, 16*mib }
	no := []frame.Setting{{ID: frame.InitialWindowSize, Value: 0}}
	tick := 20 * time.Millisecond
	many := 2000.0
	if judging() {
		many = 100_000
	}
	besieged(t, []onslaught{
		{name: "windows of 0", tune: small, serve: 16 << 10, line: 64 * mib, metric: "held_limit_total", labels: []string{`layer="http"`},
			attack: hold(replay{bytes: requests(100, true, no), begin: 4, every: tick, atOnce: 4})},
		{name: "10,000 streams that wait", metric: "http2_refused_streams_total", line: 10_000 * 16 << 10,
			attack: hold(replay{bytes: requests(1010, true, nil), begin: 10})},
		{name: "slow heads", tune: tuned, metric: "slow_peers_total", labels: slow("head"),
			attack: hold(replay{bytes: []byte("GET / HTTP/1.1\r\n"), then: []byte("a"), gap: tick, begin: 100, every: tick, atOnce: 100})},
		{name: "slow bodies", tune: tuned, metric: "slow_peers_total", labels: slow("body"),
			attack: hold(replay{bytes: requests(1, false, nil, "content-length", "100000"), then: frame.AppendData(nil, 1, []byte("x"), false), gap: tick, begin: 100, every: tick, atOnce: 100})},
		{name: "readers who read nothing", tune: small, line: 64 * mib, metric: "held_limit_total", labels: []string{`layer="tcp"`}, app: endlessApp(),
			attack: hold(replay{bytes: []byte(helloRequest), begin: 10, every: tick, atOnce: 100, deaf: true})},
		{name: "slow readers", tune: tuned, serve: 60 << 10, line: 64 * mib, metric: "slow_peers_total", labels: slow("reading"),
			attack: hold(replay{bytes: requests(1, true, no), then: frame.AppendWindowUpdate(nil, 1, 1), gap: tick, begin: 100, every: tick, atOnce: 100})},
		{name: "100,000 connections, 2,000 a second", metric: "tcp_open_total", labels: []string{`direction="inbound"`, `peer="src"`, `target_port="90"`}, least: many,
			attack: hold(replay{dst: smallWeb, bytes: []byte(helloRequest), begin: 10, every: 5 * time.Millisecond, atOnce: 100, gives: tick})},
		{name: "connections that never speak", metric: "netstack_drops_total", labels: []string{`reason="client_limit"`}, tune: func(c *tunproxy.Config) { c.Limits.Connections = 1000 },
			attack: hold(replay{begin: 20, every: tick, atOnce: 2000})},
		{name: "connections that begin to speak", metric: "netstack_drops_total", labels: []string{`reason="client_limit"`}, tune: func(c *tunproxy.Config) { c.Limits.Connections = 1000 },
			attack: hold(replay{bytes: []byte("G"), begin: 20, every: tick, atOnce: 2000})},
		{name: "TLS handshakes that are half done", metric: "tls_handshake_failures_total", labels: []string{`reason="timeout"`}, line: 64 * mib,
			attack: hold(replay{bytes: hello(t), begin: 10, every: tick, atOnce: 1000})},
		{name: "TLS handshakes that come to nothing", line: 64 * mib, metric: "tls_handshakes_waited_total",
			attack: hold(replay{bytes: append(hello(t), "\x15\x03\x03\x00\x02\x02\x28"...), begin: 250, every: 500 * time.Millisecond, atOnce: 1000})},
	})
}

// hello is what a sidecar begins with.
func hello(t *testing.T) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		_ = tls.Client(theirs, &tls.Config{ServerName: id("b").ServerName(), NextProtos: []string{hop.ALPNRequests}, MinVersion: tls.VersionTLS13}).Handshake()
		_ = theirs.Close()
	}()
	b := make([]byte, 16<<10)
	n, err := ours.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n:n]
}
