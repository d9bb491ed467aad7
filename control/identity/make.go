package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"time"
)

const (
	anchorName = "Tunmesh trust anchor"
	issuerName = "Tunmesh issuer"
)

// NewAnchor makes a trust anchor: certificate and key, PEM.
func NewAnchor(trustDomain string, now time.Time) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template, err := template(anchorName, trustDomain, anchorLifetime, now)
	if err != nil {
		return nil, nil, err
	}
	return sign(template, template, private, private)
}

// NewIssuer makes an issuer that an anchor, PEM, signs: certificate and key, PEM.
func NewIssuer(anchor, anchorKey []byte, trustDomain string, now time.Time) (cert, key []byte, err error) {
	list, err := certificates(anchor)
	if err != nil {
		return nil, nil, fmt.Errorf("make issuer: read anchor: %w", err)
	}
	signer, err := privateKey(anchorKey)
	if err != nil {
		return nil, nil, fmt.Errorf("make issuer: read anchor's key: %w", err)
	}
	return newIssuer(list[0], signer, trustDomain, now)
}

func newIssuer(anchor *x509.Certificate, anchorKey crypto.Signer, trustDomain string, now time.Time) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template, err := template(issuerName, trustDomain, issuerLifetime, now)
	if err != nil {
		return nil, nil, err
	}
	template.MaxPathLenZero = true // it signs workloads, not authorities
	if template.NotAfter.After(anchor.NotAfter) {
		template.NotAfter = anchor.NotAfter
	}
	return sign(template, anchor, private, anchorKey)
}

func sign(template, parent *x509.Certificate, private *ecdsa.PrivateKey, signer crypto.Signer) (cert, key []byte, err error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, private.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	if key, err = encodeKey(private); err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key, nil
}

func subject(name, trustDomain string) pkix.Name {
	return pkix.Name{CommonName: name + " of " + trustDomain}
}

func template(name, trustDomain string, lifetime time.Duration, now time.Time) (*x509.Certificate, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               subject(name, trustDomain),
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(lifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
