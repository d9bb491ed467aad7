package mtls_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
)

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
