// Package mtlstest makes certificate authorities and workload certificates for
// tests, good ones and every kind of bad one.
package mtlstest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
)

// CA is a trust anchor.
type CA struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// NewCA makes a trust anchor that is valid for a year around now.
func NewCA(t testing.TB) *CA {
	t.Helper()
	key, err := mtls.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: "test anchor"},
		NotBefore: time.Now().Add(-72 * time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &CA{Cert: cert, Key: key}
}

// Anchors is the bundle of this CA alone.
func (ca *CA) Anchors() [][]byte { return [][]byte{ca.Cert.Raw} }

// Leaf describes a workload certificate; zero fields are made good.
type Leaf struct {
	URIs      []string
	NotBefore time.Time
	NotAfter  time.Time
	IsCA      bool
	Key       *ecdsa.PrivateKey
}

// Issue signs a leaf.
func (ca *CA) Issue(t testing.TB, l Leaf) *mtls.Certificate {
	t.Helper()
	if l.Key == nil {
		key, err := mtls.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		l.Key = key
	}
	return &mtls.Certificate{Chain: [][]byte{ca.Sign(t, l, l.Key.Public())}, Key: l.Key}
}

// Sign is Issue for a public key; it returns DER.
func (ca *CA) Sign(t testing.TB, l Leaf, public any) []byte {
	t.Helper()
	if l.NotBefore.IsZero() {
		l.NotBefore = time.Now().Add(-time.Minute)
	}
	if l.NotAfter.IsZero() {
		l.NotAfter = time.Now().Add(24 * time.Hour)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(t), NotBefore: l.NotBefore, NotAfter: l.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:        l.IsCA, BasicConstraintsValid: true,
	}
	for _, s := range l.URIs {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		tmpl.URIs = append(tmpl.URIs, u)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.Cert, public, ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Store is a Store with this anchor and a good certificate for id.
func (ca *CA) Store(t testing.TB, id spiffe.ID, c mtls.Config) *mtls.Store {
	t.Helper()
	s := mtls.NewStore(c)
	if err := s.Update(ca.Anchors(), ca.Issue(t, Leaf{URIs: []string{id.String()}})); err != nil {
		t.Fatal(err)
	}
	return s
}

// ID is the identity of a service account in namespace prod of cluster.local.
func ID(account string) spiffe.ID {
	return spiffe.ID{TrustDomain: "cluster.local", Namespace: "prod", ServiceAccount: account}
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
