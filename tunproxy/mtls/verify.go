package mtls

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// Why a handshake failed, for callers that count reasons; errors.Is finds them
// in what Client and Server report. aio.ErrTimeout and aio.ErrReset are others.
var (
	// ErrNoCertificate: the peer presented none.
	ErrNoCertificate = errors.New("peer presented no certificate")
	// ErrExpired: a certificate of the peer's chain is not valid now.
	ErrExpired = errors.New("peer certificate is not valid now")
	// ErrUntrusted: the peer's chain ends at no trust anchor of ours.
	ErrUntrusted = errors.New("peer certificate is not signed by a trust anchor")
	// ErrIdentity: the peer proved another identity than was wanted, or none.
	ErrIdentity = errors.New("peer identity")
	// ErrProtocol: no common ALPN token, or no TLS 1.3.
	ErrProtocol = errors.New("no common protocol of the mesh")
	// ErrServerName: the client asked for another server name than ours.
	ErrServerName = errors.New("server name is not ours")
	// ErrRefusedByPeer: the peer ended the handshake with an alert.
	ErrRefusedByPeer = errors.New("refused by the peer")
	// ErrBusy: too many handshakes wait already.
	ErrBusy = errors.New("too many handshakes at once")
)

var (
	errNoAnchors        = errors.New("no trust anchors yet")
	errNoOwnCertificate = errors.New("no certificate of our own yet")
	errNoProtocol       = fmt.Errorf("%w: the client offered none", ErrProtocol)
)

func wrongIdentity(got spiffe.ID, want []spiffe.ID) error {
	if len(want) == 1 {
		return fmt.Errorf("%w is %s, want %s", ErrIdentity, got, want[0])
	}
	return fmt.Errorf("%w is %s, want one of %v", ErrIdentity, got, want)
}

// identity reads the one SPIFFE URI of a leaf. Any other URI, or a second one,
// makes the certificate nobody's.
func identity(leaf *x509.Certificate) (spiffe.ID, error) {
	if len(leaf.URIs) != 1 {
		return spiffe.ID{}, fmt.Errorf("%w: the certificate has %d URI names, want exactly one", ErrIdentity, len(leaf.URIs))
	}
	id, err := spiffe.Parse(leaf.URIs[0].String())
	if err != nil {
		return spiffe.ID{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	return id, nil
}

// verifyChain checks a presented chain, leaf first, and tells who the leaf
// names and until when all of the chain is valid.
func verifyChain(chain []*x509.Certificate, anchors *x509.CertPool, now time.Time) (spiffe.ID, time.Time, error) {
	if len(chain) == 0 {
		return spiffe.ID{}, time.Time{}, ErrNoCertificate
	}
	if anchors == nil {
		return spiffe.ID{}, time.Time{}, errNoAnchors
	}
	leaf := chain[0]
	id, err := identity(leaf)
	if err != nil {
		return spiffe.ID{}, time.Time{}, err
	}
	if leaf.IsCA {
		return spiffe.ID{}, time.Time{}, fmt.Errorf("%w: %s is a CA certificate", ErrIdentity, id)
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: anchors, Intermediates: between, CurrentTime: now,
		// A workload is a client and a server with one certificate.
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		var invalid x509.CertificateInvalidError
		if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
			return spiffe.ID{}, time.Time{}, fmt.Errorf("%w: %s: %w", ErrExpired, id, err)
		}
		return spiffe.ID{}, time.Time{}, fmt.Errorf("%w: %s: %w", ErrUntrusted, id, err)
	}
	var until time.Time
	for _, ch := range chains { // any one chain is enough: the longest-lived counts
		end := ch[0].NotAfter
		for _, c := range ch[1:] {
			if c.NotAfter.Before(end) {
				end = c.NotAfter
			}
		}
		if end.After(until) {
			until = end
		}
	}
	return id, until, nil
}

// verify is verifyChain with memory: the signatures of a chain are checked
// once per snapshot, so that a resumed handshake stays cheap although it is
// held to the anchors in force.
func (n *snapshot) verify(chain []*x509.Certificate, now time.Time) (spiffe.ID, error) {
	key := chainKey(chain)
	if id, ok := n.verified.get(key, now); ok {
		return id, nil
	}
	id, until, err := verifyChain(chain, n.anchors, now)
	if err == nil {
		n.verified.put(key, verdict{id: id, until: until})
	}
	return id, err
}

// maxVerified bounds the remembered chains of a snapshot: about 150 bytes each.
const maxVerified = 4096

type chainHash [sha256.Size]byte

type verdict struct {
	id    spiffe.ID
	until time.Time
}

// verified remembers good chains only.
type verified struct {
	mu    sync.Mutex
	known map[chainHash]verdict
}

func newVerified() *verified { return &verified{known: map[chainHash]verdict{}} }

func (v *verified) get(k chainHash, now time.Time) (spiffe.ID, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	d, ok := v.known[k]
	if !ok || now.After(d.until) {
		return spiffe.ID{}, false
	}
	return d.id, true
}

func (v *verified) put(k chainHash, d verdict) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.known) >= maxVerified {
		clear(v.known)
	}
	v.known[k] = d
}

func chainKey(chain []*x509.Certificate) chainHash {
	h := sha256.New()
	for _, c := range chain {
		var n [4]byte
		n[0], n[1], n[2], n[3] = byte(len(c.Raw)>>24), byte(len(c.Raw)>>16), byte(len(c.Raw)>>8), byte(len(c.Raw))
		h.Write(n[:])
		h.Write(c.Raw)
	}
	var k chainHash
	h.Sum(k[:0])
	return k
}
