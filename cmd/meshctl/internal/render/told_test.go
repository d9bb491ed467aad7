package render_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

// What check prints is Linkerd's, in each of its three forms.
func TestChecks(t *testing.T) {
	well := []render.CheckCategory{{Name: "cluster", Checks: []render.CheckResult{{Description: "the API server answers", Result: render.CheckSuccess}}}}
	cats := append(well, render.CheckCategory{Name: "identity", Checks: []render.CheckResult{
		{Description: "the issuer is valid", Result: render.CheckSuccess},
		{Description: "the issuer is valid for 60 days", Result: render.CheckWarning, Error: "it expires in 24h", Hint: "https://x/checks.md#expiry"},
		{Description: "all certificates are renewed", Result: render.CheckError, Error: "about to expire:\n<a/bad>"},
	}})
	golden(t, "table", text(t, func(b *strings.Builder) error { return render.Checks(b, cats, false) }), `
cluster
-------
√ the API server answers

identity
--------
√ the issuer is valid
‼ the issuer is valid for 60 days
    it expires in 24h
    see https://x/checks.md#expiry for hints
× all certificates are renewed
    about to expire:
    <a/bad>

Status check results are ×
`)
	golden(t, "short", text(t, func(b *strings.Builder) error { return render.Checks(b, cats, true) }), `
identity
--------
‼ the issuer is valid for 60 days
    it expires in 24h
    see https://x/checks.md#expiry for hints
× all certificates are renewed
    about to expire:
    <a/bad>

Status check results are ×
`)
	golden(t, "short, and all is well", text(t, func(b *strings.Builder) error { return render.Checks(b, well, true) }), "Status check results are √\n")
	golden(t, "JSON", text(t, func(b *strings.Builder) error { return render.ChecksJSON(b, cats) }), `
{
  "success": false,
  "categories": [
    {
      "categoryName": "cluster",
      "checks": [
        {
          "description": "the API server answers",
          "result": "success"
        }
      ]
    },
    {
      "categoryName": "identity",
      "checks": [
        {
          "description": "the issuer is valid",
          "result": "success"
        },
        {
          "description": "the issuer is valid for 60 days",
          "hint": "https://x/checks.md#expiry",
          "error": "it expires in 24h",
          "result": "warning"
        },
        {
          "description": "all certificates are renewed",
          "error": "about to expire:\n<a/bad>",
          "result": "error"
        }
      ]
    }
  ]
}
`)
	if !render.Passed(well) || render.Passed(cats) {
		t.Error("what fails must not pass, and what does not must")
	}
}

// A certificate is shown as openssl has it.
func TestCertificate(t *testing.T) {
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := &x509.Certificate{
		Version: 3, SerialNumber: big.NewInt(0x0a0b0c), SignatureAlgorithm: x509.ECDSAWithSHA256,
		Issuer: pkix.Name{CommonName: "issuer"}, Subject: pkix.Name{CommonName: "web"}, NotBefore: begin, NotAfter: begin.Add(24 * time.Hour),
		PublicKeyAlgorithm: x509.ECDSA, PublicKey: &ecdsa.PublicKey{Curve: elliptic.P256()},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames: []string{"web.shop.sa.cluster.local"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/shop/sa/web"}},
	}
	golden(t, "text", render.Certificate(c), `
Certificate:
    Data:
        Version: 3 (0x2)
        Serial Number: 0a:0b:0c
    Signature Algorithm: ECDSA-SHA256
        Issuer: CN=issuer
        Validity
            Not Before: Jan  2 03:04:05 2026 UTC
            Not After : Jan  3 03:04:05 2026 UTC
        Subject: CN=web
        Subject Public Key Info:
            Public Key Algorithm: ECDSA
                Public-Key: (256 bit), curve P-256
        X509v3 extensions:
            X509v3 Key Usage:
                Digital Signature
            X509v3 Extended Key Usage:
                TLS Web Server Authentication, TLS Web Client Authentication
            X509v3 Basic Constraints:
                CA:FALSE
            X509v3 Subject Alternative Name:
                DNS:web.shop.sa.cluster.local, URI:spiffe://cluster.local/ns/shop/sa/web
`)
	got, err := json.Marshal(render.IdentityOf("shop", "web-1", c))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "JSON", string(got), `{"namespace":"shop","pod":"web-1","identity":"spiffe://cluster.local/ns/shop/sa/web","issuer":"CN=issuer","serial":"0a:0b:0c","notBefore":"2026-01-02T03:04:05Z","notAfter":"2026-01-03T03:04:05Z"}`)
}
