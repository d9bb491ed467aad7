package mtls_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
)

// heap is what is in use now, in bytes.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// An idle connection must not hold the buffers that it needed when it was busy:
// a sidecar has 25 KB for each idle connection, of which TLS gets half.
func TestIdleMemory(t *testing.T) {
	const conns, limit = 200, 12 << 10
	ca := mtlstest.NewCA(t)
	client, server := ca.Store(t, web, mtls.Config{}), ca.Store(t, api, mtls.Config{})
	l := aiotest.NewLoop()
	ends := make([]hopEnds, conns)
	big := make([]byte, 64<<10)
	got := make([]byte, len(big))
	var pipes [conns][2]*aiotest.Conn
	for i := range pipes {
		pipes[i][0], pipes[i][1] = aiotest.Pipe(l, 1<<20)
	}
	before := heap()
	for i := range ends {
		ends[i] = dial(t, l, pipes[i][0], pipes[i][1], params(client), server)
		for _, c := range []*mtls.Conn{ends[i].c, ends[i].s} {
			c.SetHandler(&events{})
		}
		// Busy once, in both directions.
		for _, d := range [][2]*mtls.Conn{{ends[i].c, ends[i].s}, {ends[i].s, ends[i].c}} {
			if n, err := d[0].Write(big); n != len(big) || err != nil {
				t.Fatal(n, err)
			}
			l.Run(t)
			for n := 0; n < len(big); {
				k, err := d[1].Read(got)
				if err != nil {
					t.Fatal(err)
				}
				n += k
			}
			if _, err := d[1].Read(got); err == nil {
				t.Fatal("more than was sent")
			}
		}
		pipes[i][0].Shrink()
		pipes[i][1].Shrink()
	}
	after := heap()
	per := (after - before) / (2 * conns)
	t.Logf("%d bytes of heap per idle connection and side", per)
	if per > limit {
		t.Errorf("%d bytes of heap per idle connection and side, at most %d are good", per, limit)
	}
	runtime.KeepAlive(ends)
}

func TestLayoutIsKnown(t *testing.T) {
	if !mtls.LayoutKnown() {
		t.Error("crypto/tls keeps its buffers elsewhere in this Go: idle connections cost more; see layout.go")
	}
}

func bench(b *testing.B, size int) {
	ca := mtlstest.NewCA(b)
	l := aiotest.NewLoop()
	x, y := aiotest.Pipe(l, 1<<20)
	e := dial(b, l, x, y, params(ca.Store(b, web, mtls.Config{})), ca.Store(b, api, mtls.Config{}))
	e.s.SetHandler(&events{})
	l.Run(b)
	p, q := make([]byte, size), make([]byte, size+1)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.c.Write(p); err != nil {
			b.Fatal(err)
		}
		l.Pass()
		for n := 0; n < size; {
			k, err := e.s.Read(q)
			if err != nil {
				b.Fatal(err)
			}
			n += k
		}
	}
}

func Benchmark128(b *testing.B) { bench(b, 128) }
func Benchmark16K(b *testing.B) { bench(b, 16<<10) }
func Benchmark32K(b *testing.B) { bench(b, 32<<10) }

func benchHandshake(b *testing.B, renew bool) {
	ca := mtlstest.NewCA(b)
	client, server := ca.Store(b, web, mtls.Config{}), ca.Store(b, api, mtls.Config{})
	l := aiotest.NewLoop()
	for b.Loop() {
		if renew {
			client, server = mtls.Fresh(client), mtls.Fresh(server)
		}
		x, y := aiotest.Pipe(l, 1<<20)
		e := dial(b, l, x, y, params(client), server)
		if e.cerr != nil {
			b.Fatal(e.cerr)
		}
		_, _ = e.c.Read(make([]byte, 1))
		e.c.Close()
		e.s.Close()
		l.RunUntil(b, time.Second, func() bool { return true })
	}
}

func BenchmarkHandshakeFull(b *testing.B)    { benchHandshake(b, true) }
func BenchmarkHandshakeResumed(b *testing.B) { benchHandshake(b, false) }
