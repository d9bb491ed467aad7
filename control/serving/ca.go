package serving

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// Keys of what an authority is kept in.
const (
	// BundleKey holds the certificates that the API server is to believe: the
	// newest first, older ones as long as somebody may serve with what they signed.
	BundleKey = "ca.crt"
	// PrivateKey holds the newest one's key.
	PrivateKey = "ca.key"
)

const (
	caLifetime   = 365 * 24 * time.Hour
	leafLifetime = 30 * 24 * time.Hour
	// backdate is for an API server whose clock is slow.
	backdate = 5 * time.Minute
)

// ca is an authority of its own for one server: a key that signs certificates for one name,
// and what to verify them with.
type ca struct {
	bundle []*x509.Certificate // newest first
	key    *ecdsa.PrivateKey
}

// parseCA reads what is kept.
func parseCA(data map[string][]byte) (*ca, error) {
	c := &ca{}
	for rest := data[BundleKey]; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", BundleKey, err)
		}
		c.bundle = append(c.bundle, cert)
	}
	if len(c.bundle) == 0 {
		return nil, fmt.Errorf("%s: no certificate", BundleKey)
	}
	block, _ := pem.Decode(data[PrivateKey])
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM", PrivateKey)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", PrivateKey, err)
	}
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok || !private.PublicKey.Equal(c.bundle[0].PublicKey) {
		return nil, fmt.Errorf("%s is not the key of the first certificate in %s", PrivateKey, BundleKey)
	}
	c.key = private
	return c, nil
}

// renew returns the data to keep instead of the given, nil when it is good: a new
// authority where there is none that can be used, or its life is two thirds over.
// Those before it stay believed until they expire.
func renew(what string, data map[string][]byte, now time.Time) (map[string][]byte, error) {
	old, err := parseCA(data)
	if err == nil && now.Before(old.bundle[0].NotAfter.Add(-caLifetime/3)) && !now.Before(old.bundle[0].NotBefore) {
		return nil, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the authority of %s: %w", what, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make the authority of %s: %w", what, err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Tunmesh authority of " + what + " " + serial.Text(36)[:8]},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(caLifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the authority of %s: %w", what, err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make the authority of %s: %w", what, err)
	}
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if old != nil {
		for _, c := range old.bundle {
			if now.Before(c.NotAfter) {
				bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
			}
		}
	}
	return map[string][]byte{
		BundleKey: bundle, PrivateKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	}, nil
}

// issue makes a server's certificate for some names.
func (c *ca) issue(what string, names []string, now time.Time) (*tls.Certificate, error) {
	if len(names) == 0 {
		return nil, fmt.Errorf("make the certificate of %s: no name", what)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of %s: %w", what, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make the certificate of %s: %w", what, err)
	}
	end := now.Add(leafLifetime)
	if end.After(c.bundle[0].NotAfter) {
		end = c.bundle[0].NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: now.Add(-backdate), NotAfter: end, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, c.bundle[0], key.Public(), c.key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of %s: %w", what, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of %s: %w", what, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// believed reports whether a bundle, PEM, has the newest certificate.
func (c *ca) believed(bundle []byte) bool {
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			return false
		}
		if bytes.Equal(block.Bytes, c.bundle[0].Raw) {
			return true
		}
	}
}

// signed reports whether a certificate is of the newest.
func (c *ca) signed(cert *tls.Certificate) bool {
	return cert != nil && cert.Leaf.CheckSignatureFrom(c.bundle[0]) == nil
}

// knows reports whether a certificate is of one of the bundle.
func (c *ca) knows(cert *tls.Certificate) bool {
	return slices.ContainsFunc(c.bundle, func(by *x509.Certificate) bool { return cert.Leaf.CheckSignatureFrom(by) == nil })
}

// whole reports whether a bundle, PEM, has the same certificates as another.
func whole(a, b []byte) bool { return slices.EqualFunc(ders(a), ders(b), bytes.Equal) }

func ders(bundle []byte) [][]byte {
	var list [][]byte
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			return list
		}
		list = append(list, block.Bytes)
	}
}
