package mtls_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
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

func TestHandshake(t *testing.T) {
	_, e, a, b := pair(t, 0)
	if e.c.Peer() != api || e.s.Peer() != web {
		t.Errorf("peers are %s and %s", e.c.Peer(), e.s.Peer())
	}
	if e.c.ALPN() != hop.ALPNBytes || e.s.ALPN() != hop.ALPNBytes {
		t.Errorf("protocols are %q and %q", e.c.ALPN(), e.s.ALPN())
	}
	if e.c.Resumed() || e.s.Resumed() {
		t.Error("the first handshake is a resumed one")
	}
	if e.c.Remote() != a.Remote() || e.s.Local() != b.Local() {
		t.Error("the addresses are not the transport's")
	}
}

func read(t testing.TB, c aio.Conn, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	k, err := c.Read(b)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return b[:k]
}

func TestBytesBothWays(t *testing.T) {
	l, e, _, _ := pair(t, 0)
	var ce, se events
	e.c.SetHandler(&ce)
	e.s.SetHandler(&se)
	l.Run(t)
	if n, err := e.c.Write([]byte("question")); n != 8 || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
	before := se.readable
	l.Run(t)
	if se.readable == before {
		t.Error("the server was not told of data")
	}
	peek := make([]byte, 5)
	for range 2 { // a peek changes nothing
		if n, err := e.s.Peek(peek); n != 5 || err != nil || string(peek) != "quest" {
			t.Fatalf("peek: %q, %v", peek[:n], err)
		}
	}
	if got := read(t, e.s, 100); string(got) != "question" {
		t.Errorf("read %q", got)
	}
	if _, err := e.s.Read(peek); !errors.Is(err, aio.ErrWouldBlock) {
		t.Errorf("read of nothing: %v", err)
	}
	if _, err := e.s.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	l.Run(t)
	if got := read(t, e.c, 3); string(got) != "ans" {
		t.Errorf("read %q", got)
	}
	if got := read(t, e.c, 3); string(got) != "wer" {
		t.Errorf("read %q", got)
	}
}

// bad is one way not to be let in.
type bad struct {
	name    string
	client  func(t *testing.T, ca *mtlstest.CA) *mtls.Store
	server  func(t *testing.T, ca *mtlstest.CA) *mtls.Store
	change  func(p *mtls.Params)
	cerr    error  // at the client
	serr    error  // at the server
	late    bool   // the client learns at its first read
	mention string // in the error of the side that judged
}

func TestRefusals(t *testing.T) {
	trusting := func(t *testing.T, ca *mtlstest.CA, c *mtls.Certificate, own *mtlstest.CA, now func() time.Time) *mtls.Store {
		s := mtls.NewStore(mtls.Config{Now: now})
		if err := s.Update(append(ca.Anchors(), own.Anchors()...), c); err != nil {
			t.Fatal(err)
		}
		return s
	}
	yesterday := func() time.Time { return time.Now().Add(-30 * time.Hour) }
	for _, c := range []bad{
		{
			name: "client of another anchor",
			client: func(t *testing.T, ca *mtlstest.CA) *mtls.Store {
				own := mtlstest.NewCA(t)
				return trusting(t, ca, own.Issue(t, mtlstest.Leaf{URIs: []string{web.String()}}), own, nil)
			},
			serr: mtls.ErrUntrusted, late: true, mention: web.String(),
		},
		{
			name: "expired client",
			client: func(t *testing.T, ca *mtlstest.CA) *mtls.Store {
				// Its own clock is behind, so that it presents the certificate.
				return trusting(t, ca, ca.Issue(t, mtlstest.Leaf{
					URIs: []string{web.String()}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-24 * time.Hour),
				}), ca, yesterday)
			},
			server: func(t *testing.T, ca *mtlstest.CA) *mtls.Store {
				return trusting(t, ca, ca.Issue(t, mtlstest.Leaf{URIs: []string{api.String()}, NotBefore: time.Now().Add(-48 * time.Hour)}), ca, nil)
			},
			serr: mtls.ErrExpired, late: true, mention: web.String(),
		},
		{
			name: "strangers to each other",
			client: func(t *testing.T, _ *mtlstest.CA) *mtls.Store {
				return mtlstest.NewCA(t).Store(t, web, mtls.Config{})
			},
			cerr: mtls.ErrUntrusted, serr: mtls.ErrRefusedByPeer, mention: "trust anchor",
		},
		{
			name: "server with another identity",
			server: func(t *testing.T, ca *mtlstest.CA) *mtls.Store {
				return ca.Store(t, mtlstest.ID("evil"), mtls.Config{})
			},
			change: func(p *mtls.Params) { p.ServerName = mtlstest.ID("evil").ServerName() },
			cerr:   mtls.ErrIdentity, serr: mtls.ErrRefusedByPeer, mention: "want " + api.String(),
		},
		{
			name: "server of another trust domain, same anchor",
			server: func(t *testing.T, ca *mtlstest.CA) *mtls.Store {
				return ca.Store(t, spiffe.ID{TrustDomain: "elsewhere", Namespace: "prod", ServiceAccount: "api"}, mtls.Config{})
			},
			change: func(p *mtls.Params) { p.ServerName = "api.prod.sa.elsewhere" },
			cerr:   mtls.ErrIdentity, serr: mtls.ErrRefusedByPeer, mention: "spiffe://elsewhere/",
		},
		{
			name:   "server name that is not the server's",
			change: func(p *mtls.Params) { p.ServerName = "db.prod.sa.cluster.local" },
			cerr:   mtls.ErrRefusedByPeer, serr: mtls.ErrServerName, mention: "db.prod.sa.cluster.local",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			ca := mtlstest.NewCA(t)
			client, server := ca.Store(t, web, mtls.Config{}), ca.Store(t, api, mtls.Config{})
			if c.client != nil {
				client = c.client(t, ca)
			}
			if c.server != nil {
				server = c.server(t, ca)
			}
			p := params(client)
			if c.change != nil {
				c.change(&p)
			}
			l := aiotest.NewLoop()
			a, b := aiotest.Pipe(l, 0)
			e := dial(t, l, a, b, p, server)
			cerr := e.cerr
			if c.late {
				if cerr != nil {
					t.Fatalf("client: %v", cerr)
				}
				_, cerr = e.c.Read(make([]byte, 1))
				c.cerr = mtls.ErrRefusedByPeer
			}
			if !errors.Is(cerr, c.cerr) {
				t.Errorf("client: %v, want %v", cerr, c.cerr)
			}
			if !errors.Is(e.serr, c.serr) || e.s != nil {
				t.Errorf("server: %v, want %v", e.serr, c.serr)
			}
			if !strings.Contains(e.serr.Error()+cerr.Error(), c.mention) || !strings.Contains(e.serr.Error(), b.Remote().String()) {
				t.Errorf("the errors do not say who or what:\n%v\n%v", e.serr, cerr)
			}
			if e.c == nil && !a.IsClosed() || !b.IsClosed() {
				t.Error("a connection without a hop was left open")
			}
		})
	}
}

// A certificate must name exactly one SPIFFE URI; whatever else a trusted
// issuer signs is nobody.
func TestOddCertificates(t *testing.T) {
	for name, uris := range map[string][]string{
		"none":       {},
		"two":        {web.String(), api.String()},
		"not spiffe": {"https://example.com/web"},
		"no account": {"spiffe://cluster.local/ns/prod"},
		"with query": {web.String() + "?x=1"},
	} {
		t.Run(name, func(t *testing.T) {
			ca := mtlstest.NewCA(t)
			if err := mtls.NewStore(mtls.Config{}).Update(ca.Anchors(), ca.Issue(t, mtlstest.Leaf{URIs: uris})); !errors.Is(err, mtls.ErrIdentity) {
				t.Errorf("as our own: %v", err)
			}
			rawClient(t, ca, func(cfg *tls.Config) {
				c := ca.Issue(t, mtlstest.Leaf{URIs: uris})
				cfg.Certificates = []tls.Certificate{{Certificate: c.Chain, PrivateKey: c.Key}}
			}, mtls.ErrIdentity)
		})
	}
}

// rawClient is a client that is not ours: crypto/tls as change says. The server
// must refuse it for the reason want.
func rawClient(t *testing.T, ca *mtlstest.CA, change func(*tls.Config), want error) error {
	t.Helper()
	good := ca.Issue(t, mtlstest.Leaf{URIs: []string{web.String()}})
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, ServerName: api.ServerName(),
		NextProtos:   []string{hop.ALPNBytes},
		Certificates: []tls.Certificate{{Certificate: good.Chain, PrivateKey: good.Key}},
	}
	change(cfg)
	l := aiotest.NewLoop()
	a, b := aiotest.Pipe(l, 0)
	nc := aio.NetConn(a)
	heard := make(chan error, 1)
	go func() {
		c := tls.Client(nc, cfg)
		_, err := c.Write([]byte("secret of the app")) // handshakes first
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		_ = nc.Close()
		heard <- err
	}()
	var serr error
	over := false
	mtls.Server(b, mtls.Params{Store: ca.Store(t, api, mtls.Config{})}, func(c *mtls.Conn, err error) {
		serr, over = err, true
		if c != nil {
			c.Reset()
		}
	})
	l.RunUntil(t, 10*time.Second, func() bool { return over })
	var err error
	l.RunUntil(t, 10*time.Second, func() bool {
		select {
		case err = <-heard:
			return true
		default:
			l.Post(func() {})
			time.Sleep(time.Millisecond)
			return false
		}
	})
	l.Run(t)
	if !errors.Is(serr, want) {
		t.Errorf("server: %v, want %v", serr, want)
	}
	return err
}

func TestClientWithoutCertificate(t *testing.T) {
	err := rawClient(t, mtlstest.NewCA(t), func(c *tls.Config) { c.Certificates = nil }, mtls.ErrNoCertificate)
	if err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("the client heard %v, want the alert certificate_required", err)
	}
}

func TestUnknownVersions(t *testing.T) {
	for name, tokens := range map[string][]string{
		"newer":   {"tunmesh-tcp/2"},
		"foreign": {"h2", "http/1.1"},
	} {
		t.Run(name, func(t *testing.T) {
			err := rawClient(t, mtlstest.NewCA(t), func(c *tls.Config) { c.NextProtos = tokens }, mtls.ErrProtocol)
			if err == nil || !strings.Contains(err.Error(), "no application protocol") {
				t.Errorf("the client heard %v, want the alert no_application_protocol", err)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		rawClient(t, mtlstest.NewCA(t), func(c *tls.Config) { c.NextProtos = nil }, mtls.ErrProtocol)
	})
	t.Run("tls 1.2", func(t *testing.T) {
		rawClient(t, mtlstest.NewCA(t), func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, mtls.ErrProtocol)
	})
}

// slowly passes bytes between two pipes one at a time, which is also a way to
// see every partial record.
type slowly struct {
	from, to *aiotest.Conn
}

func (s *slowly) Readable(aio.Conn) {
	var b [1]byte
	for {
		n, err := s.from.Read(b[:])
		if n == 0 {
			if errors.Is(err, io.EOF) {
				_ = s.to.CloseWrite()
			}
			return
		}
		s.to.Put(b[:])
		s.from.Loop().Post(func() { s.Readable(nil) })
		return
	}
}
func (s *slowly) Writable(aio.Conn)          {}
func (s *slowly) Closed(_ aio.Conn, _ error) {}

func TestByteByByte(t *testing.T) {
	ca := mtlstest.NewCA(t)
	l := aiotest.NewLoop()
	a, a2 := aiotest.Pipe(l, 1<<20)
	b2, b := aiotest.Pipe(l, 1<<20)
	a2.SetHandler(&slowly{a2, b2})
	b2.SetHandler(&slowly{b2, a2})
	e := dial(t, l, a, b, params(ca.Store(t, web, mtls.Config{})), ca.Store(t, api, mtls.Config{}))
	if e.cerr != nil || e.serr != nil {
		t.Fatal(e.cerr, e.serr)
	}
	want := bytes.Repeat([]byte("0123456789abcdef"), 2000) // two records
	var got []byte
	ended := false
	h := &events{onReadable: func(c aio.Conn) {
		buf := make([]byte, 1000)
		for {
			n, err := c.Read(buf)
			got = append(got, buf[:n]...)
			if errors.Is(err, io.EOF) {
				ended = true
			}
			if err != nil {
				return
			}
		}
	}}
	e.s.SetHandler(h)
	if n, err := e.c.Write(want); n != len(want) || err != nil {
		t.Fatal(n, err)
	}
	if err := e.c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	l.Run(t)
	if !bytes.Equal(got, want) || !ended {
		t.Errorf("%d bytes, ended %v; want %d and the end", len(got), ended, len(want))
	}
}

func TestHalfClose(t *testing.T) {
	l, e, a, b := pair(t, 0)
	var ce, se events
	e.c.SetHandler(&ce)
	e.s.SetHandler(&se)
	if _, err := e.c.Write([]byte("last")); err != nil {
		t.Fatal(err)
	}
	if err := e.c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.c.Write([]byte("x")); !errors.Is(err, aio.ErrClosed) {
		t.Errorf("write after CloseWrite: %v", err)
	}
	l.Run(t)
	if got := read(t, e.s, 10); string(got) != "last" {
		t.Errorf("read %q", got)
	}
	if _, err := e.s.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("read: %v, want EOF", err)
	}
	// The other direction goes on.
	if _, err := e.s.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	l.Run(t)
	if got := read(t, e.c, 10); string(got) != "answer" {
		t.Errorf("read %q", got)
	}
	if ce.closed+se.closed != 0 {
		t.Error("closed while one direction is open")
	}
	if err := e.s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	l.Run(t)
	if _, err := e.c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("read: %v, want EOF", err)
	}
	l.Run(t)
	if ce.closed != 1 || ce.err != nil || se.closed != 1 || se.err != nil {
		t.Errorf("closed %d %v and %d %v, want once each, without error", ce.closed, ce.err, se.closed, se.err)
	}
	e.c.Close()
	e.s.Close()
	l.Run(t)
	if !a.IsClosed() || !b.IsClosed() {
		t.Error("the transport is still open")
	}
}

func TestReset(t *testing.T) {
	l, e, a, _ := pair(t, 0)
	var se events
	e.s.SetHandler(&se)
	l.Run(t)
	e.c.Reset()
	l.Run(t)
	if !a.IsClosed() || se.closed != 1 || !errors.Is(se.err, aio.ErrReset) {
		t.Errorf("closed %d with %v, want a reset", se.closed, se.err)
	}
	if _, err := e.s.Read(make([]byte, 1)); !errors.Is(err, aio.ErrReset) {
		t.Errorf("read: %v, want a reset", err)
	}
	if _, err := e.c.Read(nil); !errors.Is(err, aio.ErrClosed) {
		t.Errorf("read after our own reset: %v", err)
	}
}

// A FIN that is not preceded by close_notify may be anybody's: it is no EOF.
func TestTruncation(t *testing.T) {
	for _, partial := range []int{0, 1, 7} {
		l, e, a, b := pair(t, 0)
		var se events
		e.s.SetHandler(&se)
		if _, err := e.c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		l.Run(t)
		if got := read(t, e.s, 10); string(got) != "hello" {
			t.Errorf("read %q", got)
		}
		a.Put([]byte{23, 3, 3, 0, 40, 1, 2}[:partial]) // a record's beginning
		_ = a.CloseWrite()
		l.Run(t)
		if _, err := e.s.Read(make([]byte, 1)); !errors.Is(err, aio.ErrReset) || errors.Is(err, io.EOF) {
			t.Errorf("read: %v, want a reset", err)
		}
		_ = b.CloseWrite() // both directions over: the last event says so too
		l.Run(t)
		if se.closed != 1 || !errors.Is(se.err, aio.ErrReset) {
			t.Errorf("closed %d with %v, want a reset", se.closed, se.err)
		}
	}
}

// A record that was touched ends the connection, and both sides know.
func TestForgedRecord(t *testing.T) {
	l, e, a, _ := pair(t, 0)
	a.Put([]byte{23, 3, 3, 0, 32})
	a.Put(make([]byte, 32))
	l.Run(t)
	_, err := e.s.Read(make([]byte, 1))
	if err == nil || errors.Is(err, aio.ErrWouldBlock) || errors.Is(err, io.EOF) {
		t.Fatalf("read: %v", err)
	}
	l.Run(t)
	if _, err := e.c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "bad record MAC") {
		t.Errorf("the client heard %v", err)
	}
	e.s.Reset()
	e.c.Reset()
}

// pump copies everything that comes to w, resuming whenever it can.
func copyAll(t *testing.T, l *aiotest.Loop, from, to *mtls.Conn, data []byte, chunk int) []byte {
	t.Helper()
	var got []byte
	ended := false
	sent, finned := 0, false
	send := func(aio.Conn) {
		for sent < len(data) {
			n, err := from.Write(data[sent:min(len(data), sent+chunk)])
			sent += n
			if errors.Is(err, aio.ErrWouldBlock) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !finned {
			finned = true
			if err := from.CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
	}
	to.SetHandler(&events{onReadable: func(c aio.Conn) {
		buf := make([]byte, 1+rand.IntN(40000))
		for {
			n, err := c.Read(buf)
			got = append(got, buf[:n]...)
			if errors.Is(err, io.EOF) {
				ended = true
			} else if err != nil && !errors.Is(err, aio.ErrWouldBlock) {
				t.Fatal(err)
			}
			if err != nil {
				return
			}
		}
	}})
	from.SetHandler(&events{onWritable: send})
	send(nil)
	l.Run(t)
	if !ended {
		t.Error("no end")
	}
	return got
}

func TestLargeTransfers(t *testing.T) {
	for _, limit := range []int{100, 4000, 64 << 10, 1 << 20} {
		for _, chunk := range []int{777, 16 << 10, 100_000, 1 << 20} {
			l, e, a, b := pair(t, limit)
			data := make([]byte, 1<<20)
			_, _ = rand.NewChaCha8([32]byte{byte(limit), byte(chunk)}).Read(data)
			if got := copyAll(t, l, e.c, e.s, data, chunk); !bytes.Equal(got, data) {
				t.Errorf("pipe of %d, writes of %d: received %d bytes that are not those sent", limit, chunk, len(got))
			}
			if got := copyAll(t, l, e.s, e.c, data, chunk); !bytes.Equal(got, data) {
				t.Errorf("pipe of %d, writes of %d, back: received %d bytes that are not those sent", limit, chunk, len(got))
			}
			e.c.Close()
			e.s.Close()
			l.Run(t)
			if !a.IsClosed() || !b.IsClosed() || a.WasReset() || b.WasReset() {
				t.Error("the transport did not end in order")
			}
		}
	}
}

// Close delivers what was written before, also when the transport is full.
func TestCloseDelivers(t *testing.T) {
	l, e, _, _ := pair(t, 1000)
	want := bytes.Repeat([]byte("x"), 20000)
	n, err := e.c.Write(want)
	if n != len(want) || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
	if n, err := e.c.Write([]byte("y")); n != 0 || !errors.Is(err, aio.ErrWouldBlock) {
		t.Fatalf("write into a full connection: %d, %v", n, err)
	}
	e.c.Close()
	e.c.Close()
	var got []byte
	ended := false
	e.s.SetHandler(&events{onReadable: func(c aio.Conn) {
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			got = append(got, buf[:n]...)
			ended = ended || errors.Is(err, io.EOF)
			if err != nil {
				return
			}
		}
	}})
	l.Run(t)
	if !bytes.Equal(got, want) || !ended {
		t.Errorf("%d bytes, ended %v", len(got), ended)
	}
}

// A Close that nobody reads for ends with a reset, not never.
func TestCloseLingers(t *testing.T) {
	l, e, a, b := pair(t, 1000)
	if _, err := e.c.Write(make([]byte, 20000)); err != nil {
		t.Fatal(err)
	}
	e.c.Close()
	l.Advance(t, 9*time.Second)
	if a.IsClosed() {
		t.Error("closed before everything was delivered")
	}
	l.Advance(t, 2*time.Second)
	if !a.IsClosed() || !b.WasReset() {
		t.Error("still open")
	}
}

// Closing with unread data is a reset, as in TCP; a session ticket that nobody
// read is not data.
func TestCloseWithUnread(t *testing.T) {
	l, e, _, b := pair(t, 0)
	if _, err := e.s.Write([]byte("for nobody")); err != nil {
		t.Fatal(err)
	}
	l.Run(t)
	e.c.Close()
	l.Run(t)
	if !b.WasReset() {
		t.Error("unread data, and no reset")
	}

	l, e, _, b = pair(t, 0)
	e.c.Close() // the server's ticket lies unread in the transport
	l.Run(t)
	if b.WasReset() {
		t.Error("a ticket was taken for data")
	}
	if _, err := e.s.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read: %v, want EOF", err)
	}
}

func TestHandlerChange(t *testing.T) {
	l, e, _, _ := pair(t, 0)
	if _, err := e.c.Write([]byte("early")); err != nil {
		t.Fatal(err)
	}
	l.Run(t) // nobody listens: the data stays
	var first events
	e.s.SetHandler(&first)
	if first.readable != 0 {
		t.Error("called from inside SetHandler")
	}
	l.Run(t)
	if first.readable == 0 {
		t.Error("data that came before the handler was not told of")
	}
	if got := read(t, e.s, 2); string(got) != "ea" {
		t.Errorf("read %q", got)
	}
	var second events // what TLS has decrypted already counts as well
	e.s.SetHandler(&second)
	l.Run(t)
	if second.readable == 0 {
		t.Error("the rest was not told of")
	}
	if got := read(t, e.s, 10); string(got) != "rly" {
		t.Errorf("read %q", got)
	}
	e.s.SetHandler(nil) // parked: also the end waits for a handler
	e.c.Reset()
	l.Run(t)
	var third events
	e.s.SetHandler(&third)
	l.Run(t)
	if third.closed != 1 {
		t.Errorf("closed %d times, want once", third.closed)
	}
}

func TestTimeout(t *testing.T) {
	ca := mtlstest.NewCA(t)
	for name, start := range map[string]func(c aio.Conn, done func(*mtls.Conn, error)){
		"client": func(c aio.Conn, done func(*mtls.Conn, error)) {
			mtls.Client(c, params(ca.Store(t, web, mtls.Config{})), done)
		},
		"server": func(c aio.Conn, done func(*mtls.Conn, error)) {
			mtls.Server(c, mtls.Params{Store: ca.Store(t, api, mtls.Config{})}, done)
		},
	} {
		l := aiotest.NewLoop()
		a, _ := aiotest.Pipe(l, 0)
		var got error
		start(a, func(_ *mtls.Conn, err error) { got = err })
		l.Advance(t, 4900*time.Millisecond)
		if got != nil {
			t.Fatalf("%s: %v before the deadline", name, got)
		}
		l.Advance(t, 200*time.Millisecond)
		l.RunUntil(t, 10*time.Second, func() bool { return got != nil })
		if !errors.Is(got, aio.ErrTimeout) || !a.IsClosed() {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestPeerLeavesDuringHandshake(t *testing.T) {
	ca := mtlstest.NewCA(t)
	for name, leave := range map[string]struct {
		f    func(c *aiotest.Conn)
		want error
	}{
		"reset": {(*aiotest.Conn).Reset, aio.ErrReset},
		"close": {func(c *aiotest.Conn) { c.Take(); c.Close() }, mtls.ErrRefusedByPeer},
	} {
		l := aiotest.NewLoop()
		a, b := aiotest.Pipe(l, 0)
		var got error
		mtls.Client(a, params(ca.Store(t, web, mtls.Config{})), func(_ *mtls.Conn, err error) { got = err })
		l.RunUntil(t, 5*time.Second, func() bool { return len(b.Peeked()) > 0 })
		leave.f(b)
		l.RunUntil(t, 5*time.Second, func() bool { return got != nil })
		if !errors.Is(got, leave.want) {
			t.Errorf("%s: %v, want %v", name, got, leave.want)
		}
	}
}

func TestCancel(t *testing.T) {
	ca := mtlstest.NewCA(t)
	l := aiotest.NewLoop()
	a, _ := aiotest.Pipe(l, 0)
	var got error
	n := 0
	cancel := mtls.Client(a, params(ca.Store(t, web, mtls.Config{})), func(_ *mtls.Conn, err error) { got = err; n++ })
	cancel()
	l.RunUntil(t, 5*time.Second, func() bool { return got != nil })
	cancel()
	l.Run(t)
	if !errors.Is(got, aio.ErrClosed) || n != 1 {
		t.Errorf("%v, %d times", got, n)
	}
}

// Handshakes beyond the limit wait; beyond the queue they are refused at once.
func TestGate(t *testing.T) {
	ca := mtlstest.NewCA(t)
	s := ca.Store(t, api, mtls.Config{MaxHandshakes: 1, MaxWaiting: 1})
	l := aiotest.NewLoop()
	var errs [3]error
	var conns [3]*mtls.Conn
	var pipes [3][2]*aiotest.Conn
	over := 0
	for i := range 3 {
		a, b := aiotest.Pipe(l, 0)
		pipes[i] = [2]*aiotest.Conn{a, b}
		mtls.Server(b, mtls.Params{Store: s}, func(c *mtls.Conn, err error) { conns[i], errs[i] = c, err; over++ })
	}
	l.RunUntil(t, 5*time.Second, func() bool { return over == 1 })
	if !errors.Is(errs[2], mtls.ErrBusy) {
		t.Fatalf("the third: %v, want %v", errs[2], mtls.ErrBusy)
	}
	// The second's client comes; it has to wait for the first to leave.
	good := ca.Store(t, web, mtls.Config{})
	var cerr error
	mtls.Client(pipes[1][0], params(good), func(_ *mtls.Conn, err error) { cerr = err; over++ })
	time.Sleep(30 * time.Millisecond)
	l.Run(t)
	if over != 1 {
		t.Fatal("the second did not wait")
	}
	pipes[0][0].Reset()
	l.RunUntil(t, 5*time.Second, func() bool { return over == 4 })
	if !errors.Is(errs[0], aio.ErrReset) || errs[1] != nil || cerr != nil || conns[1] == nil {
		t.Errorf("first %v, second %v, its client %v", errs[0], errs[1], cerr)
	}
	// One that waits is not forgotten by its deadline.
	a, b := aiotest.Pipe(l, 0)
	_ = a
	mtls.Server(b, mtls.Params{Store: s}, func(*mtls.Conn, error) {})
	c, d := aiotest.Pipe(l, 0)
	_ = c
	var waited error
	mtls.Server(d, mtls.Params{Store: s}, func(_ *mtls.Conn, err error) { waited = err })
	l.Advance(t, 6*time.Second)
	l.RunUntil(t, 5*time.Second, func() bool { return waited != nil })
	if !errors.Is(waited, aio.ErrTimeout) {
		t.Errorf("waited: %v", waited)
	}
	time.Sleep(20 * time.Millisecond) // the first's goroutine ends
}

func again(t *testing.T, l *aiotest.Loop, addr string, client, server *mtls.Store) hopEnds {
	t.Helper()
	a, b := aiotest.PipeAddr(l, 0, netip.MustParseAddrPort("10.0.0.1:40000"), netip.MustParseAddrPort(addr))
	e := dial(t, l, a, b, params(client), server)
	if e.cerr == nil { // tickets come with the first read
		if _, err := e.c.Read(make([]byte, 1)); !errors.Is(err, aio.ErrWouldBlock) {
			e.cerr = err
		}
	}
	return e
}

func TestResumption(t *testing.T) {
	ca := mtlstest.NewCA(t)
	l := aiotest.NewLoop()
	client, server := ca.Store(t, web, mtls.Config{}), ca.Store(t, api, mtls.Config{})
	second := ca.Store(t, api, mtls.Config{}) // another pod of the same account
	steps := []struct {
		addr    string
		server  *mtls.Store
		resumed bool
	}{
		{"10.0.0.2:80", server, false},
		{"10.0.0.2:80", server, true},
		{"10.0.0.3:80", second, false},
		{"10.0.0.3:80", second, true},
		{"10.0.0.2:80", server, true},
	}
	for i, s := range steps {
		e := again(t, l, s.addr, client, s.server)
		if e.cerr != nil || e.serr != nil {
			t.Fatalf("step %d: %v, %v", i, e.cerr, e.serr)
		}
		if e.c.Resumed() != s.resumed || e.s.Resumed() != s.resumed {
			t.Errorf("step %d: resumed %v and %v, want %v", i, e.c.Resumed(), e.s.Resumed(), s.resumed)
		}
		if e.s.Peer() != web || e.c.Peer() != api {
			t.Errorf("step %d: peers %s and %s", i, e.s.Peer(), e.c.Peer())
		}
	}
	// A change at either side ends resumption, and the full handshake works.
	if err := client.Update(nil, ca.Issue(t, mtlstest.Leaf{URIs: []string{web.String()}})); err != nil {
		t.Fatal(err)
	}
	if e := again(t, l, "10.0.0.2:80", client, server); e.cerr != nil || e.c.Resumed() {
		t.Errorf("after the client's renewal: %v, resumed", e.cerr)
	}
	if e := again(t, l, "10.0.0.2:80", client, server); e.cerr != nil || !e.c.Resumed() {
		t.Errorf("and then: %v, not resumed", e.cerr)
	}
	if err := server.Update(nil, ca.Issue(t, mtlstest.Leaf{URIs: []string{api.String()}})); err != nil {
		t.Fatal(err)
	}
	if e := again(t, l, "10.0.0.2:80", client, server); e.cerr != nil || e.serr != nil || e.c.Resumed() {
		t.Errorf("after the server's renewal: %v, %v", e.cerr, e.serr)
	}
}

// A client whose anchor was withdrawn is out at once, ticket or not.
func TestResumptionHoldsToTheAnchorsInForce(t *testing.T) {
	old, next := mtlstest.NewCA(t), mtlstest.NewCA(t)
	both := append(old.Anchors(), next.Anchors()...)
	l := aiotest.NewLoop()
	client, server := mtls.NewStore(mtls.Config{}), mtls.NewStore(mtls.Config{})
	for _, err := range []error{
		client.Update(both, old.Issue(t, mtlstest.Leaf{URIs: []string{web.String()}})),
		server.Update(both, next.Issue(t, mtlstest.Leaf{URIs: []string{api.String()}})),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, resumed := range []bool{false, true} {
		if e := again(t, l, "10.0.0.2:80", client, server); e.cerr != nil || e.serr != nil || e.c.Resumed() != resumed {
			t.Fatalf("round %d: %v, %v", i, e.cerr, e.serr)
		}
	}
	if err := server.Update(next.Anchors(), nil); err != nil {
		t.Fatal(err)
	}
	if e := again(t, l, "10.0.0.2:80", client, server); !errors.Is(e.serr, mtls.ErrUntrusted) || !errors.Is(e.cerr, mtls.ErrRefusedByPeer) {
		t.Errorf("server %v, client %v", e.serr, e.cerr)
	}
	// And the other way round: the client drops the server's anchor.
	if err := client.Update(old.Anchors(), nil); err != nil {
		t.Fatal(err)
	}
	if e := again(t, l, "10.0.0.2:80", client, server); !errors.Is(e.cerr, mtls.ErrUntrusted) {
		t.Errorf("client %v", e.cerr)
	}
}

// Anchors rotate live: old, both, new; at no moment is a good peer refused, and
// connections that are open stay so.
func TestRotation(t *testing.T) {
	old, next := mtlstest.NewCA(t), mtlstest.NewCA(t)
	l := aiotest.NewLoop()
	client, server := old.Store(t, web, mtls.Config{}), old.Store(t, api, mtls.Config{})
	issue := func(ca *mtlstest.CA, id spiffe.ID) *mtls.Certificate {
		return ca.Issue(t, mtlstest.Leaf{URIs: []string{id.String()}})
	}
	first := again(t, l, "10.0.0.2:80", client, server)
	both := append(old.Anchors(), next.Anchors()...)
	for i, step := range []func() error{
		func() error { return client.Update(both, nil) },
		func() error { return server.Update(both, nil) },
		func() error { return server.Update(nil, issue(next, api)) },
		func() error { return client.Update(nil, issue(next, web)) },
		func() error { return client.Update(next.Anchors(), nil) },
		func() error { return server.Update(next.Anchors(), nil) },
	} {
		changed := client.Changed()
		if err := step(); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			<-changed
		}
		if e := again(t, l, "10.0.0.2:80", client, server); e.cerr != nil || e.serr != nil {
			t.Errorf("step %d: %v, %v", i, e.cerr, e.serr)
		}
	}
	if _, err := first.c.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	l.Run(t)
	if got := read(t, first.s, 20); string(got) != "still here" {
		t.Errorf("read %q", got)
	}
}

func TestStoreRefuses(t *testing.T) {
	ca, other := mtlstest.NewCA(t), mtlstest.NewCA(t)
	good := ca.Issue(t, mtlstest.Leaf{URIs: []string{web.String()}})
	s := ca.Store(t, web, mtls.Config{})
	until := s.NotAfter()
	key, _ := mtls.NewKey()
	for name, c := range map[string]struct {
		anchors [][]byte
		cert    *mtls.Certificate
	}{
		"empty bundle":      {[][]byte{}, nil},
		"garbage anchor":    {[][]byte{{1, 2, 3}}, nil},
		"a leaf as anchor":  {[][]byte{good.Chain[0]}, nil},
		"another's key":     {nil, &mtls.Certificate{Chain: good.Chain, Key: key}},
		"no chain":          {nil, &mtls.Certificate{Key: key}},
		"untrusted":         {nil, other.Issue(t, mtlstest.Leaf{URIs: []string{web.String()}})},
		"expired":           {nil, ca.Issue(t, mtlstest.Leaf{URIs: []string{web.String()}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(-time.Minute)})},
		"not a leaf":        {nil, ca.Issue(t, mtlstest.Leaf{URIs: []string{web.String()}, IsCA: true})},
		"garbage leaf":      {nil, &mtls.Certificate{Chain: [][]byte{{9}}, Key: key}},
		"anchors and no ca": {other.Anchors(), good},
	} {
		changed := s.Changed()
		if err := s.Update(c.anchors, c.cert); err == nil {
			t.Errorf("%s: accepted", name)
		}
		select {
		case <-changed:
			t.Errorf("%s: announced a change", name)
		default:
		}
	}
	if id, ok := s.ID(); !ok || id != web || !s.NotAfter().Equal(until) || !s.Valid() {
		t.Error("what was refused changed something")
	}
	if err := s.Install(api, nil, good); !errors.Is(err, mtls.ErrIdentity) {
		t.Errorf("a certificate for somebody else: %v", err)
	}
	if _, err := s.ClientTLS(nil, "h2", true); err == nil {
		t.Error("a client that accepts nobody, or anybody")
	}
	empty := mtls.NewStore(mtls.Config{})
	if _, err := empty.ClientTLS([]spiffe.ID{api}, "h2", false); err == nil {
		t.Error("a client without trust anchors")
	}
	l := aiotest.NewLoop()
	a, _ := aiotest.Pipe(l, 0)
	var err error
	mtls.Server(a, mtls.Params{Store: empty}, func(_ *mtls.Conn, e error) { err = e })
	l.Run(t)
	if err == nil || !a.IsClosed() {
		t.Error("a server without a certificate")
	}
}

func TestParsePEM(t *testing.T) {
	for _, text := range []string{"", "nothing", "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"} {
		if _, err := mtls.ParsePEM(text); err == nil {
			t.Errorf("%q: accepted", text)
		}
	}
}
