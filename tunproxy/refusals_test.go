package tunproxy

import (
	"net/netip"
	"testing"
	"time"
)

// TestRefusals: who asks now and then is always taken to the app; of masses only
// some are, and all are again once it listens.
func TestRefusals(t *testing.T) {
	port, other := netip.MustParseAddrPort("10.0.0.2:99"), netip.MustParseAddrPort("10.0.0.2:100")
	asked := func(r *refusals, dst netip.AddrPort, n int, now *time.Duration, every time.Duration, refused bool) (asked int) {
		for range n {
			if !r.known(dst, *now) {
				asked++
				r.answered(dst, *now, refused)
			}
			*now += every
		}
		return asked
	}
	for _, c := range []struct {
		name        string
		n           int
		every       time.Duration
		least, most int
	}{
		{"one a second", 1000, time.Second, 1000, 1000},
		{"one in five milliseconds", 1000, askEvery, 1000, 1000},
		{"ten thousand a second", 10_000, 100 * time.Microsecond, refusedOften + 190, refusedOften + 200},
	} {
		r, now := &refusals{}, time.Hour
		if n := asked(r, port, c.n, &now, c.every, true); n < c.least || n > c.most {
			t.Errorf("%s: the app was asked %d times, want %d to %d", c.name, n, c.least, c.most)
		}
	}

	r, now := &refusals{}, time.Hour
	asked(r, port, 1000, &now, time.Microsecond, true)
	if !r.known(port, now) || r.known(other, now) {
		t.Error("the port that refuses is not known, or another is")
	}
	now += askEvery
	if n := asked(r, port, 100, &now, time.Microsecond, false); n != 100 {
		t.Errorf("of 100 who came when the app had begun to listen, %d were taken to it", n)
	}

	r, now = &refusals{}, time.Hour
	asked(r, port, 1000, &now, time.Microsecond, true)
	if now += refusedLately + time.Millisecond; r.known(port, now) {
		t.Error("what nobody asked for any more is still known")
	}
	asked(r, port, 1000, &now, time.Microsecond, true)
	same := netip.AddrPortFrom(port.Addr(), port.Port()+uint16(len(r.ports)))
	asked(r, same, 1, &now, 0, true)
	if r.known(port, now) || r.known(same, now) {
		t.Error("one refusal is often enough")
	}
}
