package upstream

import (
	"errors"
	"testing"
	"time"
)

// open is a stream of g, over a new connection if need be.
func (r *rig) open(g *Group) *fakeStream {
	r.t.Helper()
	w := r.get(g)
	r.loop.Run(r.t)
	if w.s == nil {
		r.t.Fatalf("no stream: %v", w.err)
	}
	return w.s.(*fakeStream)
}

func TestOldConnectionsAreReplaced(t *testing.T) {
	r := newRig(t)
	g := r.pool.Hold(meshed, HTTP2)
	long := r.open(g)
	first := r.clients[0]
	r.loop.Advance(t, maxAge/2)
	r.pool.Renew()
	r.loop.Run(t)
	if len(r.clients) != 1 {
		t.Fatal("renewed too early")
	}
	r.loop.Advance(t, maxAge)
	r.tlsErr = errors.New("not now")
	r.pool.Renew()
	r.loop.Run(t)
	if first.closing || r.open(g).c != first {
		t.Fatal("gave the old one up without a new one")
	}
	first.finish()
	r.tlsErr = nil
	r.pool.Renew()
	r.loop.Run(t)
	if len(r.clients) != 1 {
		t.Fatal("tries again at once")
	}
	r.loop.Advance(t, 2*renewAgain)
	r.pool.Renew()
	r.pool.Renew()
	r.loop.Run(t)
	if len(r.clients) != 2 || !first.closing || first.conn == nil {
		t.Fatalf("%d connections, the old one closing %v", len(r.clients), first.closing)
	}
	if s := r.open(g); s.c != r.clients[1] {
		t.Error("the old one still gets streams")
	}
	if g.leaving != 1 {
		t.Error("the old one did not wait for its stream")
	}
	long.c.finish()
	if g.leaving != 0 || len(g.conns) != 1 {
		t.Errorf("%d leaving, %d connections", g.leaving, len(g.conns))
	}
}

func TestRenewalsAreSpread(t *testing.T) {
	r := newRig(t)
	ages := map[time.Duration]bool{}
	const n = 40
	for i := range n {
		e := meshed
		e.ID.ServiceAccount += string(rune('a'+i%26)) + string(rune('a'+i/26))
		g := r.pool.Hold(e, HTTP2)
		r.open(g)
		ages[g.conns[0].until] = true
	}
	if len(ages) < n/2 {
		t.Errorf("%d connections have %d ages", n, len(ages))
	}
	r.loop.Advance(t, 2*maxAge)
	r.pool.Renew()
	r.loop.Run(t)
	if got := len(r.clients) - n; got != maxRenewals {
		t.Errorf("%d renewed at once, want %d", got, maxRenewals)
	}
}

// Nobody's connections are not renewed, and neither are those of one request.
func TestWhatIsNotRenewed(t *testing.T) {
	r := newRig(t)
	g, single := r.pool.Hold(meshed, HTTP2), r.pool.Hold(plain, HTTP1)
	r.open(g)
	r.open(single)
	g.Release()
	r.loop.Advance(t, time.Second)
	for _, c := range append(g.conns, single.conns...) {
		c.until = 0
	}
	r.pool.Renew()
	r.loop.Run(t)
	if len(r.clients) != 2 {
		t.Errorf("%d connections", len(r.clients))
	}
}
