package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// maxCSR bounds a CSR: ours have some 300 bytes.
const maxCSR = 4 << 10

// Errors that CheckCSR's errors wrap.
var (
	// ErrCSR: it is malformed, or asks for more than an identity.
	ErrCSR = errors.New("certificate signing request is not acceptable")
	// ErrOther: it names somebody else.
	ErrOther = errors.New("certificate signing request names another identity")
)

// CheckCSR returns the key to certify when the request (PKCS #10, DER) asks for
// a certificate of want and for nothing else: an ECDSA P-256 key, an empty
// subject, one extension, which is the subject alternative name with one URI.
func CheckCSR(der []byte, want spiffe.ID) (*ecdsa.PublicKey, error) {
	if len(der) > maxCSR {
		return nil, fmt.Errorf("%w: %d bytes long", ErrCSR, len(der))
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	pub, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: the key is not ECDSA P-256", ErrCSR)
	}
	if !bytes.Equal(csr.RawSubject, []byte{0x30, 0}) {
		return nil, fmt.Errorf("%w: it has a subject (%s)", ErrCSR, csr.Subject)
	}
	if len(csr.Extensions) != 1 || !csr.Extensions[0].Id.Equal(subjectAltName()) {
		return nil, fmt.Errorf("%w: it asks for %d extensions, want the subject alternative name alone", ErrCSR, len(csr.Extensions))
	}
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(csr.Extensions[0].Value, &names); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("%w: its subject alternative name cannot be read", ErrCSR)
	}
	// Counting raw names finds kinds that x509 does not parse.
	if len(names) != 1 || len(csr.URIs) != 1 {
		return nil, fmt.Errorf("%w: %d names, of which %d are URIs; want one URI", ErrCSR, len(names), len(csr.URIs))
	}
	if got := string(names[0].Bytes); got != want.String() {
		return nil, fmt.Errorf("%w: %q, not %s", ErrOther, got, want)
	}
	return pub, nil
}

func subjectAltName() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 29, 17} }
