// Package spiffe is the workload identity as a value: parsing, printing and
// comparing spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICEACCOUNT. It refuses to
// know certificates and how identity is proven.
package spiffe

import (
	"fmt"
	"strings"
)

// ID names a workload. The zero ID names nobody.
type ID struct {
	TrustDomain, Namespace, ServiceAccount string
}

// IsZero reports the ID of nobody.
func (id ID) IsZero() bool { return id == ID{} }

// String is the SPIFFE URI, or "" for the zero ID.
func (id ID) String() string {
	if id.IsZero() {
		return ""
	}
	return "spiffe://" + id.TrustDomain + "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount
}

// ServerName is the DNS-shaped form used as SNI between sidecars:
// SA.NS.sa.TRUST-DOMAIN. It selects nothing but the handler.
func (id ID) ServerName() string {
	return id.ServiceAccount + "." + id.Namespace + ".sa." + id.TrustDomain
}

// AppendServerName adds ServerName to b.
func (id ID) AppendServerName(b []byte) []byte {
	b = append(append(append(b, id.ServiceAccount...), '.'), id.Namespace...)
	return append(append(b, ".sa."...), id.TrustDomain...)
}

// Parse reads a SPIFFE URI of the form that String writes.
func Parse(s string) (ID, error) {
	rest, ok := strings.CutPrefix(s, "spiffe://")
	if !ok {
		return ID{}, fmt.Errorf("parse identity %q: does not begin with spiffe://", s)
	}
	p := strings.Split(rest, "/")
	if len(p) != 5 || p[1] != "ns" || p[3] != "sa" {
		return ID{}, fmt.Errorf("parse identity %q: want spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICEACCOUNT", s)
	}
	for i, part := range []string{p[0], p[2], p[4]} {
		if err := checkName(part); err != nil {
			return ID{}, fmt.Errorf("parse identity %q: %s: %w", s, [...]string{"trust domain", "namespace", "service account"}[i], err)
		}
	}
	return ID{TrustDomain: p[0], Namespace: p[2], ServiceAccount: p[4]}, nil
}

// checkName allows what Kubernetes names and the SPIFFE trust domain share:
// lower-case letters, digits, '-', '.' ('_' too in a trust domain is refused).
func checkName(s string) error {
	if s == "" || len(s) > 253 {
		return fmt.Errorf("%d characters, want 1 to 253", len(s))
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || (c == '-' || c == '.') && i > 0 && i < len(s)-1 {
			continue
		}
		return fmt.Errorf("character %q at %d is not allowed", c, i)
	}
	return nil
}
