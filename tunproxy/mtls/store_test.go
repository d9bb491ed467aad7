package mtls_test

import (
	"errors"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
)

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
