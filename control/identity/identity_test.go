package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunmesh/tunmesh/internal/spiffe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func web() spiffe.ID {
	return spiffe.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func uri(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func csr(t *testing.T, key crypto.Signer, change func(*x509.CertificateRequest)) []byte {
	t.Helper()
	r := &x509.CertificateRequest{URIs: []*url.URL{uri(t, web().String())}}
	if change != nil {
		change(r)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, r, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestCheckCSR(t *testing.T) {
	key := newKey(t)
	pub, err := CheckCSR(csr(t, key, nil), web())
	if err != nil || !pub.Equal(&key.PublicKey) {
		t.Fatalf("a good request: %v", err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	san := func(names ...asn1.RawValue) func(*x509.CertificateRequest) {
		return func(r *x509.CertificateRequest) {
			v, err := asn1.Marshal(names)
			if err != nil {
				t.Fatal(err)
			}
			r.URIs = nil
			r.ExtraExtensions = []pkix.Extension{{Id: subjectAltName(), Value: v}}
		}
	}
	own := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(web().String())}
	other := web()
	other.ServiceAccount = "admin"
	signedBad := csr(t, key, nil)
	signedBad[len(signedBad)-1] ^= 1
	for name, tc := range map[string]struct {
		der  []byte
		want error
	}{
		"another identity":           {csr(t, key, func(r *x509.CertificateRequest) { r.URIs[0] = uri(t, other.String()) }), ErrOther},
		"another trust domain":       {csr(t, key, func(r *x509.CertificateRequest) { r.URIs[0] = uri(t, "spiffe://x/ns/shop/sa/web") }), ErrOther},
		"no identity":                {csr(t, key, func(r *x509.CertificateRequest) { r.URIs = nil }), ErrCSR},
		"two identities":             {csr(t, key, func(r *x509.CertificateRequest) { r.URIs = append(r.URIs, uri(t, other.String())) }), ErrCSR},
		"a DNS name too":             {csr(t, key, func(r *x509.CertificateRequest) { r.DNSNames = []string{"web"} }), ErrCSR},
		"an address too":             {csr(t, key, func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(1, 2, 3, 4)} }), ErrCSR},
		"a mail address too":         {csr(t, key, func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@b"} }), ErrCSR},
		"a name of another kind too": {csr(t, key, san(own, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 8, Bytes: []byte{42, 3}})), ErrCSR},
		"a subject":                  {csr(t, key, func(r *x509.CertificateRequest) { r.Subject.CommonName = "web" }), ErrCSR},
		"another extension": {csr(t, key, func(r *x509.CertificateRequest) {
			r.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: []byte{0x30, 3, 1, 1, 0xff}}}
		}), ErrCSR},
		"an RSA key":         {csr(t, rsaKey, nil), ErrCSR},
		"another curve":      {csr(t, p384, nil), ErrCSR},
		"a broken signature": {signedBad, ErrCSR},
		"garbage":            {[]byte("garbage"), ErrCSR},
		"nothing":            {nil, ErrCSR},
		"far too long":       {make([]byte, 1<<20), ErrCSR},
	} {
		if _, err := CheckCSR(tc.der, web()); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

func openFolder(t *testing.T, dir string) *Folder {
	t.Helper()
	f, err := OpenFolder(dir, "cluster.local", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestIssue(t *testing.T) {
	a := openFolder(t, t.TempDir()).Current()
	key := newKey(t)
	now := time.Now()
	chain, notAfter, err := a.Issue(web(), &key.PublicKey, Lifetime, now)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	if got := notAfter.Sub(now).Round(time.Minute); got != 24*time.Hour || !leaf.NotAfter.Equal(notAfter) {
		t.Errorf("holds for %v, until %v, said %v", got, leaf.NotAfter, notAfter)
	}
	if leaf.IsCA || len(leaf.URIs) != 1 || leaf.URIs[0].String() != web().String() || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 || leaf.Subject.String() != "" {
		t.Errorf("certificate of %v, %+v", leaf.URIs, leaf.Subject)
	}
	inter := x509.NewCertPool()
	for _, der := range chain[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		inter.AddCert(c)
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), Intermediates: inter, KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := a.Issue(web(), &key.PublicKey, Lifetime, now.Add(2*issuerLifetime)); err == nil {
		t.Error("an issuer that has expired signs")
	}
	if _, end, err := a.Issue(web(), &key.PublicKey, Lifetime, a.issuer.NotAfter.Add(-time.Hour)); err != nil || end.After(a.issuer.NotAfter) {
		t.Errorf("outlives its issuer: %v, %v", end, err)
	}
	if _, _, err := a.Issue(spiffe.ID{}, &key.PublicKey, Lifetime, now); err == nil {
		t.Error("nobody got a certificate")
	}
}

func TestFolderIsKeptOverRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	first := openFolder(t, dir).Current()
	second := openFolder(t, dir).Current()
	if first.Generation() != second.Generation() || !bytes.Equal(first.AnchorsPEM(), second.AnchorsPEM()) {
		t.Error("another authority after a restart")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Fatalf("files: %v, %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", e.Name(), info.Mode(), err)
		}
	}
}

func TestFolderRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		do   func(dir string) error
		want string
	}{
		"an issuer that others read": {func(d string) error { return os.Chmod(filepath.Join(d, IssuerFile), 0o640) }, "chmod 600"},
		"an issuer without anchors":  {func(d string) error { return os.Remove(filepath.Join(d, AnchorsFile)) }, "put the trust anchors back"},
		"no certificate in anchors":  {func(d string) error { return os.WriteFile(filepath.Join(d, AnchorsFile), nil, 0o600) }, "no PEM certificate"},
		"anchors of others":          {func(d string) error { return replaceAnchors(t, d, false) }, "does not lead to a trust anchor"},
		"an issuer that is no issuer": {func(d string) error {
			return os.WriteFile(filepath.Join(d, IssuerFile), append(first(t, filepath.Join(d, AnchorsFile)), keyText(t)...), 0o600)
		}, "the key is not that of certificate"},
		"an issuer without key": {func(d string) error {
			return os.WriteFile(filepath.Join(d, IssuerFile), first(t, filepath.Join(d, IssuerFile)), 0o600)
		}, "no PEM private key"},
		"no issuer, and the anchor's key elsewhere": {func(d string) error {
			return errors.Join(os.Remove(filepath.Join(d, IssuerFile)), os.Remove(filepath.Join(d, AnchorKeyFile)))
		}, "make issuer"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			openFolder(t, dir)
			if err := tc.do(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenFolder(dir, "cluster.local", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

// first is the first PEM block of a file.
func first(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := pem.Decode(data)
	return pem.EncodeToMemory(b)
}

func keyText(t *testing.T) []byte {
	t.Helper()
	text, err := encodeKey(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// replaceAnchors puts a new anchor into the bundle, in place of or beside those
// that are there.
func replaceAnchors(t *testing.T, dir string, keep bool) error {
	t.Helper()
	other := t.TempDir()
	openFolder(t, other)
	data := first(t, filepath.Join(other, AnchorsFile))
	path := filepath.Join(dir, AnchorsFile)
	if keep {
		old, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		data = append(old, data...)
	}
	return write(path, data)
}

// follow runs a folder until the test ends.
func follow(t *testing.T, f *Folder) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestFolderReloads(t *testing.T) {
	dir := t.TempDir()
	f := openFolder(t, dir)
	follow(t, f)
	time.Sleep(50 * time.Millisecond) // until it watches; else its period finds the change, too late for the test
	changed, before := f.Changed(), f.Current()
	if err := replaceAnchors(t, dir, true); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	case <-time.After(5 * time.Second):
		t.Fatal("the second anchor was not noticed")
	}
	after := f.Current()
	if len(after.Anchors()) != 2 || after.Generation() == before.Generation() {
		t.Errorf("%d anchors, generation %d after %d", len(after.Anchors()), after.Generation(), before.Generation())
	}
	// What cannot be used changes nothing.
	changed = f.Changed()
	if err := os.WriteFile(filepath.Join(dir, AnchorsFile), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for f.Problem() == "" && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	select {
	case <-changed:
		t.Error("changed to junk")
	default:
	}
	if f.Problem() == "" || f.Current() != after {
		t.Errorf("problem %q; the last good authority stays: %v", f.Problem(), f.Current() == after)
	}
}

func TestIssuerIsRenewedInTime(t *testing.T) {
	dir := t.TempDir()
	f := openFolder(t, dir)
	old := f.Current()
	clock := time.Now().Add(issuerLifetime - issuerRenewal + time.Hour)
	f.now = func() time.Time { return clock }
	f.reload()
	if f.Current().issuer.Equal(old.issuer) || f.Current().issuer.NotAfter.Before(clock.Add(issuerLifetime-time.Minute)) {
		t.Errorf("issuer until %v at %v", f.Current().issuer.NotAfter, clock)
	}
	young := f.Current()
	f.reload()
	if f.Current() != young {
		t.Error("a young issuer was replaced")
	}
}

func TestOwnIsRenewed(t *testing.T) {
	f := openFolder(t, t.TempDir())
	o := NewOwn(f, web())
	clock := time.Now()
	o.now = func() time.Time { return clock }
	get := func() []byte {
		c, err := o.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		return c.Certificate[0]
	}
	one := get()
	clock = clock.Add(16 * time.Hour)
	if !bytes.Equal(one, get()) {
		t.Error("renewed at two thirds of its life")
	}
	clock = clock.Add(time.Hour)
	two := get()
	if bytes.Equal(one, two) {
		t.Error("not renewed at 70 % of its life")
	}
}

// TestOwnIsBelieved: whatever step of a rotation, and whoever has not heard of it
// yet, our certificate is verified by the anchors of before, as long as these are
// in force, and by those of now.
func TestOwnIsBelieved(t *testing.T) {
	now := time.Now()
	old, next := made(t, now), made(t, now)
	both := append(append([]byte{}, old.anchor...), next.anchor...)
	l := live(t)
	o := NewOwn(l, web())
	var before *Authority
	for i, step := range []struct {
		anchors, cert, key []byte
		same               bool
	}{
		{anchors: old.anchor, cert: old.cert, key: old.key},
		{anchors: both, cert: old.cert, key: old.key, same: true},
		{anchors: both, cert: next.cert, key: next.key, same: true},
		{anchors: next.anchor, cert: next.cert, key: next.key},
	} {
		had := o.cert
		tell(t, l, step.anchors, step.cert, step.key)
		c, err := o.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		if !l.Current().verifies(c.Certificate, now) {
			t.Errorf("step %d: the anchors in force do not verify it", i)
		}
		if before != nil && !before.verifies(c.Certificate, now) {
			t.Errorf("step %d: the anchors before it do not verify it", i)
		}
		if (had == c) != step.same {
			t.Errorf("step %d: it is the one before: %v", i, had == c)
		}
		before = l.Current()
	}
}

func FuzzCheckCSR(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	u, err := url.Parse(web().String())
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{u}}, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if pub, err := CheckCSR(b, web()); err == nil && pub == nil {
			t.Fatal("accepted without a key")
		}
	})
}

// Anchors are the same however somebody writes them.
func TestHasAnchors(t *testing.T) {
	now := time.Now()
	one, key, err := NewAnchor("cluster.local", now)
	if err != nil {
		t.Fatal(err)
	}
	two, _, err := NewAnchor("cluster.local", now)
	if err != nil {
		t.Fatal(err)
	}
	cert, certKey, err := NewIssuer(one, key, "cluster.local", now)
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAuthority(slices.Concat(one, two), cert, certKey, now)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		string(a.AnchorsPEM()): true, "# ours\n" + string(two) + strings.TrimSpace(string(one)): true,
		string(one): false, string(two): false, "": false, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n": false,
		string(slices.Concat(one, two, cert)): false,
	} {
		if got := a.HasAnchors([]byte(text)); got != want {
			t.Errorf("%t, want %t, for\n%s", got, want, text)
		}
	}
}
