package mtls_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// events records what a connection's handler hears.
type events struct {
	readable, writable, closed int
	err                        error
	onReadable, onWritable     func(c aio.Conn)
}

func (e *events) Readable(c aio.Conn) {
	e.readable++
	if e.onReadable != nil {
		e.onReadable(c)
	}
}

func (e *events) Writable(c aio.Conn) {
	e.writable++
	if e.onWritable != nil {
		e.onWritable(c)
	}
}

func (e *events) Closed(_ aio.Conn, err error) { e.closed++; e.err = err }

// hopEnds are both ends of a hop, or why there is none.
type hopEnds struct {
	c, s       *mtls.Conn
	cerr, serr error
}

// dial runs a handshake over a and b.
func dial(t testing.TB, l *aiotest.Loop, a, b aio.Conn, cp mtls.Params, server *mtls.Store) hopEnds {
	t.Helper()
	var e hopEnds
	n := 0
	mtls.Client(a, cp, func(c *mtls.Conn, err error) { e.c, e.cerr = c, err; n++ })
	mtls.Server(b, mtls.Params{Store: server}, func(c *mtls.Conn, err error) { e.s, e.serr = c, err; n++ })
	l.RunUntil(t, 10*time.Second, func() bool { return n == 2 })
	l.Run(t)
	if n != 2 {
		t.Fatalf("done was called %d times", n)
	}
	return e
}

var (
	web = mtlstest.ID("web")
	api = mtlstest.ID("api")
)

func params(s *mtls.Store) mtls.Params {
	return mtls.Params{Store: s, ALPN: hop.ALPNBytes, Accept: []spiffe.ID{api}}
}

// pair is a good hop over a pipe that holds limit bytes.
func pair(t testing.TB, limit int) (*aiotest.Loop, hopEnds, *aiotest.Conn, *aiotest.Conn) {
	t.Helper()
	ca := mtlstest.NewCA(t)
	l := aiotest.NewLoop()
	a, b := aiotest.Pipe(l, limit)
	e := dial(t, l, a, b, params(ca.Store(t, web, mtls.Config{})), ca.Store(t, api, mtls.Config{}))
	if e.cerr != nil || e.serr != nil {
		t.Fatalf("client: %v; server: %v", e.cerr, e.serr)
	}
	return l, e, a, b
}
