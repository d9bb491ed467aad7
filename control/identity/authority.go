package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"time"

	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// Lifetime is how long a workload's certificate holds; sidecars renew at 70 %.
const Lifetime = 24 * time.Hour

// clockSkew is how far certificates are dated back, for a verifier whose clock
// is slow.
const clockSkew = 20 * time.Second

// Authority is an issuer and the trust anchors in force: what signs, and what
// everybody verifies with. Immutable.
type Authority struct {
	anchors    []*x509.Certificate
	pool       *x509.CertPool
	issuer     *x509.Certificate
	chain      [][]byte // DER: issuer, then what leads to an anchor
	key        crypto.Signer
	generation uint64
}

// NewAuthority reads PEM: one or more trust anchors; the issuer's certificate,
// with intermediates after it if there are any; the issuer's key. Anchors that
// have expired are left out. now decides what has.
func NewAuthority(anchorsPEM, issuerPEM, keyPEM []byte, now time.Time) (*Authority, error) {
	a := &Authority{pool: x509.NewCertPool()}
	all, err := certificates(anchorsPEM)
	if err != nil {
		return nil, fmt.Errorf("read trust anchors: %w", err)
	}
	for _, c := range all {
		if !c.IsCA {
			return nil, fmt.Errorf("read trust anchors: %q is not a CA's certificate", c.Subject)
		}
		if now.Before(c.NotAfter) && !slices.ContainsFunc(a.anchors, c.Equal) {
			a.anchors = append(a.anchors, c)
			a.pool.AddCert(c)
		}
	}
	if len(a.anchors) == 0 {
		return nil, errors.New("read trust anchors: none of them holds today: put one that does into the bundle")
	}
	chain, err := certificates(issuerPEM)
	if err != nil {
		return nil, fmt.Errorf("read issuer: %w", err)
	}
	a.issuer = chain[0]
	if a.key, err = privateKey(keyPEM); err != nil {
		return nil, fmt.Errorf("read issuer's key: %w", err)
	}
	if err := a.verifyIssuer(chain[1:], now); err != nil {
		return nil, err
	}
	for _, c := range chain {
		if !slices.ContainsFunc(a.anchors, c.Equal) { // an anchor need not travel
			a.chain = append(a.chain, c.Raw)
		}
	}
	a.generation = generation(a.anchors, a.issuer)
	return a, nil
}

// verifyIssuer makes sure that what this issuer signs will be believed.
func (a *Authority) verifyIssuer(intermediates []*x509.Certificate, now time.Time) error {
	pub, ok := a.issuer.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(a.key.Public()) {
		return fmt.Errorf("read issuer: the key is not that of certificate %q", a.issuer.Subject)
	}
	if !a.issuer.IsCA || a.issuer.KeyUsage != 0 && a.issuer.KeyUsage&x509.KeyUsageCertSign == 0 {
		return fmt.Errorf("read issuer: certificate %q may not sign others", a.issuer.Subject)
	}
	switch {
	case now.Before(a.issuer.NotBefore):
		return fmt.Errorf("read issuer: certificate %q does not hold before %s", a.issuer.Subject, a.issuer.NotBefore.UTC().Format(time.RFC3339))
	case !now.Before(a.issuer.NotAfter):
		return fmt.Errorf("read issuer: certificate %q has expired on %s", a.issuer.Subject, a.issuer.NotAfter.UTC().Format(time.RFC3339))
	}
	pool := x509.NewCertPool()
	for _, c := range intermediates {
		pool.AddCert(c)
	}
	if _, err := a.issuer.Verify(x509.VerifyOptions{
		Roots: a.pool, Intermediates: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err != nil {
		return fmt.Errorf("read issuer: certificate %q does not lead to a trust anchor: %w", a.issuer.Subject, err)
	}
	return nil
}

// generation is the same for the same anchors and issuer, in whatever replica
// and after whatever restart, so that nobody renews for nothing.
func generation(anchors []*x509.Certificate, issuer *x509.Certificate) uint64 {
	ders := make([][]byte, 0, len(anchors))
	for _, c := range anchors {
		ders = append(ders, c.Raw)
	}
	slices.SortFunc(ders, bytes.Compare)
	h := sha256.New()
	for _, d := range append(ders, issuer.Raw) {
		sum := sha256.Sum256(d)
		h.Write(sum[:])
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// Generation changes whenever the anchors or the issuer do.
func (a *Authority) Generation() uint64 { return a.generation }

// Anchors are the trust anchors in force, never none.
func (a *Authority) Anchors() []*x509.Certificate { return slices.Clone(a.anchors) }

// AnchorsDER are the trust anchors as the wire API carries them.
func (a *Authority) AnchorsDER() [][]byte {
	ders := make([][]byte, 0, len(a.anchors))
	for _, c := range a.anchors {
		ders = append(ders, c.Raw)
	}
	return ders
}

// AnchorsPEM are the trust anchors as files carry them.
func (a *Authority) AnchorsPEM() []byte {
	var b []byte
	for _, c := range a.anchors {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return b
}

// HasAnchors says whether a text has the trust anchors in force and no others, in
// whatever order and however it is written.
func (a *Authority) HasAnchors(pem []byte) bool {
	list, err := certificates(pem)
	if err != nil {
		return false
	}
	among := func(c *x509.Certificate, all []*x509.Certificate) bool { return slices.ContainsFunc(all, c.Equal) }
	for _, c := range list {
		if !among(c, a.anchors) {
			return false
		}
	}
	return !slices.ContainsFunc(a.anchors, func(c *x509.Certificate) bool { return !among(c, list) })
}

// verifies says whether the anchors in force verify a chain, DER, leaf first.
func (a *Authority) verifies(chain [][]byte, now time.Time) bool {
	intermediates := x509.NewCertPool()
	var leaf *x509.Certificate
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		switch {
		case err != nil:
			return false
		case i == 0:
			leaf = c
		default:
			intermediates.AddCert(c)
		}
	}
	if leaf == nil {
		return false
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: a.pool, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err == nil
}

// Pool verifies what this authority and those that share an anchor signed.
func (a *Authority) Pool() *x509.CertPool { return a.pool.Clone() }

// Issuer is the certificate of the key that signs.
func (a *Authority) Issuer() *x509.Certificate { return a.issuer }

// Issue signs a certificate for one identity. The chain is DER, leaf first,
// without the anchor. It holds for lifetime, or as long as the issuer does.
func (a *Authority) Issue(id spiffe.ID, pub *ecdsa.PublicKey, lifetime time.Duration, now time.Time) (chain [][]byte, notAfter time.Time, err error) {
	if !now.Before(a.issuer.NotAfter) {
		return nil, time.Time{}, fmt.Errorf("issue certificate for %s: the issuer has expired on %s: renew it", id, a.issuer.NotAfter.UTC().Format(time.RFC3339))
	}
	uri, err := url.Parse(id.String())
	if err != nil || id.IsZero() {
		return nil, time.Time{}, fmt.Errorf("issue certificate: %q is not an identity", id)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("issue certificate for %s: %w", id, err)
	}
	notAfter = now.Add(lifetime)
	if notAfter.After(a.issuer.NotAfter) {
		notAfter = a.issuer.NotAfter
	}
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          serial,
		URIs:                  []*url.URL{uri},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}, a.issuer, pub, a.key)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("issue certificate for %s: %w", id, err)
	}
	return append([][]byte{leaf}, a.chain...), notAfter.Truncate(time.Second), nil
}

func serialNumber() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// certificates reads all certificates of a PEM file, other blocks passed over.
func certificates(data []byte) ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, errors.New("no PEM certificate")
	}
	return list, nil
}

// privateKey reads the first key of a PEM file, other blocks passed over.
func privateKey(data []byte) (crypto.Signer, error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return nil, errors.New("no PEM private key")
		}
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default:
			continue
		}
		if err != nil {
			return nil, err
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("a key of type %T cannot sign", key)
		}
		return signer, nil
	}
}
