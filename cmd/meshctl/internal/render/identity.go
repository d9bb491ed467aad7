package render

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// Identity is a sidecar's certificate in short.
type Identity struct {
	Namespace string    `json:"namespace"`
	Pod       string    `json:"pod"`
	Identity  string    `json:"identity"`
	Issuer    string    `json:"issuer"`
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
}

// IdentityOf is a certificate in short.
func IdentityOf(namespace, pod string, c *x509.Certificate) Identity {
	var id string
	if len(c.URIs) > 0 {
		id = c.URIs[0].String()
	}
	return Identity{namespace, pod, id, c.Issuer.String(), serial(c.SerialNumber), c.NotBefore.UTC(), c.NotAfter.UTC()}
}

// Certificate is a certificate as openssl shows it, without the bytes of keys.
func Certificate(c *x509.Certificate) string {
	const at = "Jan _2 15:04:05 2006 MST"
	var b strings.Builder
	line := func(depth int, format string, args ...any) {
		b.WriteString(strings.Repeat("    ", depth))
		fmt.Fprintf(&b, format+"\n", args...)
	}
	line(0, "Certificate:")
	line(1, "Data:")
	line(2, "Version: %d (0x%x)", c.Version, c.Version-1)
	line(2, "Serial Number: %s", serial(c.SerialNumber))
	line(1, "Signature Algorithm: %s", c.SignatureAlgorithm)
	line(2, "Issuer: %s", c.Issuer)
	line(2, "Validity")
	line(3, "Not Before: %s", c.NotBefore.UTC().Format(at))
	line(3, "Not After : %s", c.NotAfter.UTC().Format(at))
	line(2, "Subject: %s", c.Subject)
	line(2, "Subject Public Key Info:")
	line(3, "Public Key Algorithm: %s", c.PublicKeyAlgorithm)
	switch k := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		line(4, "Public-Key: (%d bit), curve %s", k.Params().BitSize, k.Params().Name)
	case *rsa.PublicKey:
		line(4, "Public-Key: (%d bit)", k.N.BitLen())
	}
	line(2, "X509v3 extensions:")
	if uses := keyUses(c); uses != "" {
		line(3, "X509v3 Key Usage:")
		line(4, "%s", uses)
	}
	if uses := extUses(c); uses != "" {
		line(3, "X509v3 Extended Key Usage:")
		line(4, "%s", uses)
	}
	line(3, "X509v3 Basic Constraints:")
	line(4, "CA:%s", strings.ToUpper(fmt.Sprint(c.IsCA)))
	line(3, "X509v3 Subject Alternative Name:")
	var names []string
	for _, n := range c.DNSNames {
		names = append(names, "DNS:"+n)
	}
	for _, u := range c.URIs {
		names = append(names, "URI:"+u.String())
	}
	line(4, "%s", strings.Join(names, ", "))
	return b.String()
}

func serial(n *big.Int) string {
	var out []string
	for _, b := range n.Bytes() {
		out = append(out, fmt.Sprintf("%02x", b))
	}
	return strings.Join(out, ":")
}

func keyUses(c *x509.Certificate) string {
	var out []string
	for _, u := range []struct {
		bit  x509.KeyUsage
		name string
	}{
		{x509.KeyUsageDigitalSignature, "Digital Signature"},
		{x509.KeyUsageKeyEncipherment, "Key Encipherment"},
		{x509.KeyUsageCertSign, "Certificate Sign"},
		{x509.KeyUsageCRLSign, "CRL Sign"},
	} {
		if c.KeyUsage&u.bit != 0 {
			out = append(out, u.name)
		}
	}
	return strings.Join(out, ", ")
}

func extUses(c *x509.Certificate) string {
	var out []string
	for _, u := range c.ExtKeyUsage {
		switch u {
		case x509.ExtKeyUsageServerAuth:
			out = append(out, "TLS Web Server Authentication")
		case x509.ExtKeyUsageClientAuth:
			out = append(out, "TLS Web Client Authentication")
		}
	}
	return strings.Join(out, ", ")
}
