package mtls_test

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
)

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
		"newer":   {"tunmesh-tcp/99"},
		"older":   {"tunmesh-tcp/1"},
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
	// Both have said so before their places are free.
	l.RunUntil(t, 5*time.Second, func() bool { return mtls.Running(s) == 0 })
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

// A peer that begins handshakes and lets them lie takes half of the places; the
// next one finds some at once, and what waits has its turn when they are free.
func TestGateIsFair(t *testing.T) {
	ca := mtlstest.NewCA(t)
	s := ca.Store(t, api, mtls.Config{MaxHandshakes: 8})
	l := aiotest.NewLoop()
	from := func(addr string) (client, server *aiotest.Conn) {
		return aiotest.PipeAddr(l, 0, netip.MustParseAddrPort(addr), netip.MustParseAddrPort("10.0.0.2:80"))
	}
	var silent []*aiotest.Conn
	gone := 0
	for range 20 {
		a, b := from("10.0.0.9:4000")
		silent = append(silent, a)
		mtls.Server(b, mtls.Params{Store: s}, func(*mtls.Conn, error) { gone++ })
	}
	if n := s.Waited(); n != 16 {
		t.Errorf("%d handshakes wait, want 16", n)
	}
	honest := func(addr string) {
		t.Helper()
		a, b := from(addr)
		if e := dial(t, l, a, b, params(ca.Store(t, web, mtls.Config{})), s); e.cerr != nil || e.serr != nil {
			t.Fatalf("%s: %v, %v", addr, e.cerr, e.serr)
		}
	}
	honest("10.0.0.8:4000")
	honest("10.0.0.7:4000")
	if gone != 0 {
		t.Errorf("%d silent handshakes ended; the honest ones came after them", gone)
	}
	for _, c := range silent[:len(silent)-1] {
		c.Reset()
	}
	l.RunUntil(t, 5*time.Second, func() bool { return gone == len(silent)-1 })
	honest("10.0.0.9:4001")
	silent[len(silent)-1].Reset()
	l.RunUntil(t, 5*time.Second, func() bool { return gone == len(silent) })
	time.Sleep(20 * time.Millisecond) // the goroutines end
}

// A peer that is silent in the middle of a handshake takes no processor from
// others.
func TestSilentPeerTakesNoPlace(t *testing.T) {
	ca := mtlstest.NewCA(t)
	s := ca.Store(t, api, mtls.Config{MaxComputing: 1})
	l := aiotest.NewLoop()
	ends := 0
	for range 5 {
		_, b := aiotest.Pipe(l, 0)
		mtls.Server(b, mtls.Params{Store: s}, func(*mtls.Conn, error) { ends++ })
	}
	a, b := aiotest.Pipe(l, 0)
	p := params(s) // both ends share the one place
	if e := dial(t, l, a, b, p, s); e.cerr != nil || e.serr != nil {
		t.Errorf("%v, %v", e.cerr, e.serr)
	}
	l.Advance(t, 6*time.Second)
	l.RunUntil(t, 5*time.Second, func() bool { return ends == 5 })
	time.Sleep(20 * time.Millisecond) // their goroutines end
}
