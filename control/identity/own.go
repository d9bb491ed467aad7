package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// Own is the control plane's certificate, signed by the authority that it
// serves, for a key that never leaves memory. It is renewed when it is asked for
// at 70 % of its life, or when the anchors in force do not verify it any more. A
// new issuer alone is no reason: who has not heard of its anchor yet, such as a
// sidecar that starts, could not believe us.
type Own struct {
	source Source
	id     spiffe.ID
	now    func() time.Time

	mu         sync.Mutex
	cert       *tls.Certificate
	generation uint64
	renewAt    time.Time
}

// NewOwn returns the certificate of id; nothing is signed yet.
func NewOwn(source Source, id spiffe.ID) *Own {
	return &Own{source: source, id: id, now: time.Now}
}

// Certificate returns one that holds and that the anchors in force verify.
func (o *Own) Certificate() (*tls.Certificate, error) {
	a := o.source.Current()
	if a == nil {
		return nil, errors.New("make the control plane's certificate: there is no certificate authority yet")
	}
	now := o.now()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cert != nil && now.Before(o.renewAt) && (o.generation == a.Generation() || a.verifies(o.cert.Certificate, now)) {
		o.generation = a.Generation()
		return o.cert, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the control plane's key: %w", err)
	}
	chain, notAfter, err := a.Issue(o.id, &key.PublicKey, Lifetime, now)
	if err != nil {
		return nil, err
	}
	o.cert = &tls.Certificate{Certificate: chain, PrivateKey: key}
	o.generation = a.Generation()
	o.renewAt = now.Add(notAfter.Sub(now) * 7 / 10)
	return o.cert, nil
}
