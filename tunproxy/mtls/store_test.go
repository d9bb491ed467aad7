package mtls_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
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

// What the admin port shows is what peers see and what is believed, and there is
// nothing before the first.
func TestCertificatePEM(t *testing.T) {
	ca := mtlstest.NewCA(t)
	if empty := mtls.NewStore(mtls.Config{}); empty.CertificatePEM() != nil || empty.AnchorsPEM() != nil {
		t.Errorf("before the first: %q, %q", empty.CertificatePEM(), empty.AnchorsPEM())
	}
	s := ca.Store(t, web, mtls.Config{})
	block, _ := pem.Decode(s.CertificatePEM())
	if block == nil {
		t.Fatal("no PEM")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != web.String() || !leaf.NotAfter.Equal(s.NotAfter()) {
		t.Errorf("%v until %s", leaf.URIs, leaf.NotAfter)
	}
	if block, _ = pem.Decode(s.AnchorsPEM()); block == nil || !bytes.Equal(block.Bytes, ca.Anchors()[0]) {
		t.Errorf("trust anchors: %q", s.AnchorsPEM())
	}
}
