package extension

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Where the API server says how it can be known, and by which headers it says
// who asks: a ConfigMap that every aggregated API reads.
const (
	FrontNamespace = "kube-system"
	FrontConfigMap = "extension-apiserver-authentication"
)

// Front is how the API server is known as one that speaks for others.
type Front struct {
	roots  *x509.CertPool
	names  []string // of the client certificate; empty: any that roots signed
	users  []string // header names
	groups []string
	extras []string // prefixes
}

// ParseFront reads the data of the ConfigMap.
func ParseFront(data map[string]string) (*Front, error) {
	f := &Front{roots: x509.NewCertPool()}
	bundle, n := []byte(data["requestheader-client-ca-file"]), 0
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("requestheader-client-ca-file: certificate %d: %w", n+1, err)
		}
		f.roots.AddCert(cert)
		n++
	}
	if n == 0 {
		return nil, errors.New("requestheader-client-ca-file: no certificate: the API server does not aggregate APIs (its flag --requestheader-client-ca-file)")
	}
	for key, to := range map[string]*[]string{
		"requestheader-allowed-names":        &f.names,
		"requestheader-username-headers":     &f.users,
		"requestheader-group-headers":        &f.groups,
		"requestheader-extra-headers-prefix": &f.extras,
	} {
		if data[key] == "" {
			continue
		}
		if err := json.Unmarshal([]byte(data[key]), to); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	if len(f.users) == 0 {
		return nil, errors.New("requestheader-username-headers: empty: nobody could be named")
	}
	return f, nil
}

// User is who asks.
type User struct {
	Name   string
	Groups []string
	Extra  map[string][]string
}

// user says who asks. Only a connection with the API server's own certificate may
// say it.
func (f *Front) user(r *http.Request) (User, error) {
	if f == nil {
		return User{}, errors.New("it is not known yet whom to believe: the API server's ConfigMap " + FrontNamespace + "/" + FrontConfigMap + " has not been read")
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return User{}, errors.New("only the API server may ask here: use kubectl or meshctl")
	}
	leaf, between := r.TLS.PeerCertificates[0], x509.NewCertPool()
	for _, c := range r.TLS.PeerCertificates[1:] {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: f.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return User{}, fmt.Errorf("the client certificate is not the API server's: %w", err)
	}
	if len(f.names) > 0 && !slices.Contains(f.names, leaf.Subject.CommonName) {
		return User{}, fmt.Errorf("the client certificate is of %q, not one of %q", leaf.Subject.CommonName, f.names)
	}
	u := User{Extra: map[string][]string{}}
	for _, h := range f.users {
		if u.Name = r.Header.Get(h); u.Name != "" {
			break
		}
	}
	if u.Name == "" {
		return User{}, errors.New("the API server does not say who asks")
	}
	for _, h := range f.groups {
		u.Groups = append(u.Groups, r.Header.Values(h)...)
	}
	for header, values := range r.Header {
		for _, prefix := range f.extras {
			if len(header) > len(prefix) && strings.EqualFold(header[:len(prefix)], prefix) {
				key := strings.ToLower(header[len(prefix):])
				if plain, err := url.PathUnescape(key); err == nil {
					key = plain
				}
				u.Extra[key] = append(u.Extra[key], values...)
			}
		}
	}
	return u, nil
}
