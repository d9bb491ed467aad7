package tunproxy

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/tunproxy/discover"
)

// manyEndpoints are a Service's, numbered from first on.
func manyEndpoints(first, n int) *discover.Snapshot {
	s := &discover.Snapshot{Kind: discover.Service, Authority: "web.test:80", Labels: map[string]string{"service": "web"}}
	for i := first; i < first+n; i++ {
		addr := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		s.Endpoints = append(s.Endpoints, discover.Endpoint{
			Addr: netip.AddrPortFrom(addr, 80), Weight: 10_000, Own: discover.LabelsOf(map[string]string{"pod": fmt.Sprint("web-", i)}),
		})
	}
	return s
}

func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

// TestKeptOfManyEndpoints: what a loop keeps of 10,000 endpoints of one target, beside
// what was discovered; nothing of those that no request goes to, and no more after
// they all were replaced by others, some at a time.
func TestKeptOfManyEndpoints(t *testing.T) {
	const n, limit = 10_000, 140
	p := newPair(t, nil)
	w := p.a
	all := manyEndpoints(0, 2*n).Endpoints
	s := manyEndpoints(0, 0)
	s.Endpoints = all[:n:n]
	behindAll := discover.NewTarget(service, s)
	before := liveHeap()
	tg := w.target(behindAll, service)
	p.loop.Run(t)
	each := (liveHeap() - before) / n
	t.Logf("%d bytes for each of %d endpoints", each, tg.set.Len())
	if tg.set.Len() != n || each > limit {
		t.Errorf("%d endpoints, %d bytes each; want %d, at most %d", tg.set.Len(), each, n, limit)
	}
	inUse := func() (used int) {
		for i := range tg.snap.Endpoints {
			if tg.set.Get(tg.snap.Endpoints[i].Addr).Value.used != nil {
				used++
			}
		}
		return used
	}
	series := func() int { return strings.Count(string(w.p.cfg.Metrics.Registry.Text()), "request_total{") }
	if inUse() != 0 || series() != 0 {
		t.Errorf("%d are in use and have %d series before anything was asked of them", inUse(), series())
	}
	const picks = 50
	for range picks {
		e := tg.pick(nil)
		if e.up.Addr != e.member.Addr() || e.from.Addr != e.up.Addr || e.labels(0, "").Dst[1]["pod"] == "" {
			t.Fatalf("an endpoint at %v is that of %v", e.member.Addr(), e.from.Addr)
		}
		e.metrics().Request()
	}
	if used := inUse(); used == 0 || used > picks || series() != used {
		t.Errorf("%d of %d that were chosen are in use, and have %d series", used, picks, series())
	}
	const step = n / 100
	for i := step; i <= n; i += step {
		next := *s
		next.Endpoints = all[i : i+n : i+n]
		behindAll.Publish(&next)
		p.loop.Run(t)
	}
	each = (liveHeap() - before) / n
	t.Logf("%d bytes for each after all were replaced", each)
	if tg.set.Len() != n || each > limit || inUse() != 0 {
		t.Errorf("%d endpoints, %d bytes each, %d of them in use; want %d, at most %d, 0", tg.set.Len(), each, inUse(), n, limit)
	}
	runtime.KeepAlive(all)
}

// TestRest: an endpoint that had its turn is as one nobody went to.
func TestRest(t *testing.T) {
	p := newPair(t, nil)
	tg := p.a.target(discover.NewTarget(service, manyEndpoints(0, activeEndpoints+10)), service)
	for range 10 * activeEndpoints {
		tg.pick(nil).metrics().Request()
	}
	used := func() (n int) {
		for i := range tg.snap.Endpoints {
			if e := tg.set.Get(tg.snap.Endpoints[i].Addr).Value.used; e != nil {
				n++
			}
		}
		return n
	}
	if n := used(); n != activeEndpoints {
		t.Fatalf("%d endpoints in use", n)
	}
	tg.rotate()
	if n := used(); n != activeEndpoints-1 || tg.set.Active() != activeEndpoints {
		t.Errorf("%d endpoints in use, and %d to be, after one rested", n, tg.set.Active())
	}
}

// TestManyTargets: 100 targets of 100 endpoints each take what one of 10,000 takes,
// discovered and on a loop, and little besides.
func TestManyTargets(t *testing.T) {
	const n, limit = 100, 4 << 20
	p := newPair(t, nil)
	before := liveHeap()
	for i := range n {
		dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, 0, byte(i)}), 80)
		if tg := p.a.target(discover.NewTarget(dst, manyEndpoints(n*i, n)), dst); tg.pick(nil) == nil {
			t.Fatal("no endpoint")
		}
	}
	p.loop.Run(t)
	took := liveHeap() - before
	t.Logf("%.1f MB for %d targets of %d endpoints", float64(took)/(1<<20), n, n)
	if len(p.a.targets) != n || took > limit {
		t.Errorf("%d targets take %d bytes, want %d, at most %d", len(p.a.targets), took, n, limit)
	}
}
