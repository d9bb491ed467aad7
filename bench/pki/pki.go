// Package pki makes what a pair of sidecars proves itself with: an authority and
// a certificate for each side, P-256, with a SPIFFE URI and a DNS name. It is for
// measurements; nothing here outlives one.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// Files, all PEM. SIDE.pem and SIDE.key are made for client and server, and
// SIDE-both.pem with both in one.
const CA = "ca.pem"

// Name of a side, and its identity.
func Name(side string) string     { return side + ".bench.sa.cluster.local" }
func Identity(side string) string { return "spiffe://cluster.local/ns/bench/sa/" + side }

// Write makes all files in folder dir, readable by owner.
func Write(dir string, owner int) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make an authority: %w", err)
	}
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		return fmt.Errorf("make an authority: %w", err)
	}
	f := folder{dir: dir, owner: owner}
	f.put(CA, block("CERTIFICATE", raw))
	for i, side := range []string{"client", "server"} {
		id, err := url.Parse(Identity(side))
		if err != nil {
			return err
		}
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(int64(2 + i)), Subject: pkix.Name{CommonName: Name(side)}, DNSNames: []string{Name(side)}, URIs: []*url.URL{id},
			NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		}
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return fmt.Errorf("make a key: %w", err)
		}
		der, err := x509.CreateCertificate(rand.Reader, leaf, ca, own.Public(), key)
		if err != nil {
			return fmt.Errorf("make a certificate: %w", err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(own)
		if err != nil {
			return fmt.Errorf("make a key: %w", err)
		}
		c, k := block("CERTIFICATE", der), block("PRIVATE KEY", private)
		f.put(side+".pem", c)
		f.put(side+".key", k)
		f.put(side+"-both.pem", append(c, k...))
	}
	return f.err
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

type folder struct {
	dir   string
	owner int
	err   error
}

func (f *folder) put(name string, data []byte) {
	path := filepath.Join(f.dir, name)
	if f.err == nil {
		f.err = os.WriteFile(path, data, 0o600)
	}
	if f.err == nil && f.owner != 0 {
		f.err = os.Chown(path, f.owner, f.owner)
	}
}
