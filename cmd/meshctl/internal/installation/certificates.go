package installation

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/tunmesh/tunmesh/control/identity"
	"github.com/tunmesh/tunmesh/deploy/manifest"
)

// Files are certificates that somebody brings, by their paths; "" is none.
type Files struct {
	Anchors, Certificate, Key string
}

func anchorsPath() []string { return []string{"identity", "trustAnchorsPEM"} }
func certPath() []string    { return []string{"identity", "issuer", "certificatePEM"} }
func keyPath() []string     { return []string{"identity", "issuer", "keyPEM"} }

// Over returns v with the files' content.
func (f Files) Over(v manifest.Values) (manifest.Values, error) {
	for _, one := range []struct {
		file string
		path []string
	}{{f.Anchors, anchorsPath()}, {f.Certificate, certPath()}, {f.Key, keyPath()}} {
		if one.file == "" {
			continue
		}
		text, err := os.ReadFile(one.file)
		if err != nil {
			return nil, fmt.Errorf("read certificates: %w", err)
		}
		v = v.With(string(text), one.path...)
	}
	return v, nil
}

// Certified returns v with certificates: those that it has, and others keep, must
// fit together; where there are none at all, a trust anchor and an issuer are made.
// The anchor's key is kept nowhere: who wants to sign another issuer with it brings
// an own one.
func Certified(v manifest.Values, now time.Time) (manifest.Values, error) {
	anchors, cert, key := v.Text(anchorsPath()...), v.Text(certPath()...), v.Text(keyPath()...)
	otherCA, otherIssuer := v.Is("identity", "externalCA"), v.Is("identity", "issuer", "external")
	switch {
	case otherCA && anchors != "":
		return nil, errors.New("trust anchors are given, and are to be left to others: do one of the two")
	case otherIssuer && cert+key != "":
		return nil, errors.New("an issuer is given, and is to be left to others: do one of the two")
	case (cert == "") != (key == ""):
		return nil, errors.New("an issuer needs both its certificate and its key")
	case anchors == "" && cert == "" && !otherCA && !otherIssuer:
		return made(v, now)
	case anchors == "" && !otherCA:
		return nil, errors.New("the issuer's trust anchors are missing: --identity-trust-anchors-file FILE gives them, --identity-external-ca leaves them to others")
	case cert == "" && !otherIssuer:
		return nil, errors.New("an issuer of these trust anchors is missing: --identity-issuer-certificate-file and --identity-issuer-key-file give it, --identity-external-issuer leaves it to others")
	case anchors != "" && cert != "":
		if _, err := identity.NewAuthority([]byte(anchors), []byte(cert), []byte(key), now); err != nil {
			return nil, fmt.Errorf("the certificates do not fit together: %w", err)
		}
	}
	return v, nil
}

func made(v manifest.Values, now time.Time) (manifest.Values, error) {
	all, err := manifest.Defaults(v)
	if err != nil {
		return nil, err
	}
	domain := all.Text("identity", "trustDomain")
	anchor, anchorKey, err := identity.NewAnchor(domain, now)
	if err != nil {
		return nil, fmt.Errorf("make a trust anchor: %w", err)
	}
	cert, key, err := identity.NewIssuer(anchor, anchorKey, domain, now)
	if err != nil {
		return nil, fmt.Errorf("make an issuer: %w", err)
	}
	return v.With(string(anchor), anchorsPath()...).With(string(cert), certPath()...).With(string(key), keyPath()...), nil
}
