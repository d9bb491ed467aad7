package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"github.com/tunmesh/tunmesh/bench/pki"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	if err := pki.Write(dir, 0); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(filepath.Join(dir, pki.CA))
	if err != nil || !pool.AppendCertsFromPEM(ca) {
		t.Fatalf("the authority: %v", err)
	}
	for _, side := range []string{"client", "server"} {
		for _, files := range [][2]string{{side + ".pem", side + ".key"}, {side + "-both.pem", side + "-both.pem"}} {
			c, err := tls.LoadX509KeyPair(filepath.Join(dir, files[0]), filepath.Join(dir, files[1]))
			if err != nil {
				t.Fatal(err)
			}
			for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
				if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: pki.Name(side), KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
					t.Error(err)
				}
			}
			if len(c.Leaf.URIs) != 1 || c.Leaf.URIs[0].String() != pki.Identity(side) {
				t.Errorf("identity %v", c.Leaf.URIs)
			}
		}
	}
}
