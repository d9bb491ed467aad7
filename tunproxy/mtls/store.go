package mtls

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// Config is a Store's; the zero Config is good.
type Config struct {
	// MaxHandshakes is how many handshakes of each role run at once; each has a
	// goroutine and about 40 KB. 0: 256.
	MaxHandshakes int
	// MaxWaiting is how many more may wait for their turn. 0: 16384.
	MaxWaiting int
	// MaxComputing is how many handshakes of both roles compute at once, and so
	// compete with the loops for processors. 0: all processors but one, and one.
	MaxComputing int
	// Timeout bounds a handshake with its wait for a turn. 0: 5 s.
	Timeout time.Duration
	// MaxSessions is how many endpoints' session tickets a client keeps. 0: 512.
	MaxSessions int
	// Now is the wall clock. nil: time.Now.
	Now func() time.Time
}

// A Store holds what is in force now: trust anchors and, once there is one,
// the workload's certificate. Both are swapped as one immutable snapshot; a
// handshake uses the snapshot of its beginning. All methods are safe from any
// goroutine and never block for long.
type Store struct {
	cfg     Config
	layout  layout
	buffers sync.Pool     // *[bufferSize]byte: read buffers of busy connections
	batches sync.Pool     // *batch: records on their way out
	gates   [2]gate       // by role
	cpu     chan struct{} // places to compute a handshake

	current atomic.Pointer[snapshot]
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each swap; guarded by mu
}

// snapshot is immutable but for its caches, which live and die with it: a
// change of anchors or of the certificate ends every resumable session.
type snapshot struct {
	anchorsDER [][]byte
	anchors    *x509.CertPool
	cert       *tls.Certificate // nil before the first
	id         spiffe.ID
	since      time.Time // when the certificate was installed
	notAfter   time.Time
	server     *tls.Config // nil without a certificate
	sessions   *sessions
	verified   *verified
	mark       *byte // this snapshot's own, so that connections need not keep all of it
}

// NewStore makes a Store that holds nothing yet.
func NewStore(c Config) *Store {
	if c.MaxHandshakes <= 0 {
		c.MaxHandshakes = 256
	}
	if c.MaxWaiting <= 0 {
		c.MaxWaiting = 16384
	}
	if c.MaxComputing <= 0 {
		c.MaxComputing = max(1, runtime.GOMAXPROCS(0)-1)
	}
	if c.Timeout <= 0 {
		c.Timeout = 5 * time.Second
	}
	if c.MaxSessions <= 0 {
		c.MaxSessions = 512
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Store{cfg: c, layout: findLayout(), changed: make(chan struct{}), cpu: make(chan struct{}, c.MaxComputing)}
	for i := range s.gates {
		s.gates[i] = gate{max: c.MaxHandshakes, maxWaiting: c.MaxWaiting}
	}
	s.current.Store(s.build(nil, nil, nil))
	return s
}

// Waited is how many handshakes ever had to wait for their turn.
func (s *Store) Waited() (n uint64) {
	for i := range s.gates {
		g := &s.gates[i]
		g.mu.Lock()
		n += g.waited
		g.mu.Unlock()
	}
	return n
}

// Update replaces the trust anchors (DER; nil keeps them), the certificate
// (nil keeps it), or both at once. It refuses, and keeps everything, when an
// anchor does not parse or is no CA, or when a new certificate is not one that
// a peer with these anchors would accept.
func (s *Store) Update(anchors [][]byte, cert *Certificate) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.current.Load()
	if anchors == nil {
		anchors = old.anchorsDER
	}
	pool, err := parseAnchors(anchors)
	if err != nil {
		return fmt.Errorf("update trust anchors: %w", err)
	}
	tc := old.cert
	if cert != nil {
		if tc, err = s.check(cert, pool); err != nil {
			return fmt.Errorf("update the workload certificate: %w", err)
		}
	}
	return s.swap(anchors, pool, tc)
}

// Install is Update for a certificate that was just issued: it must name id.
func (s *Store) Install(id spiffe.ID, anchors [][]byte, cert *Certificate) error {
	if len(cert.Chain) > 0 {
		leaf, err := x509.ParseCertificate(cert.Chain[0])
		if err != nil {
			return fmt.Errorf("update the workload certificate: %w", err)
		}
		if got, err := identity(leaf); err != nil {
			return fmt.Errorf("update the workload certificate: %w", err)
		} else if got != id {
			return fmt.Errorf("update the workload certificate: %w", wrongIdentity(got, []spiffe.ID{id}))
		}
	}
	return s.Update(anchors, cert)
}

// swap puts a new snapshot in force; s.mu is held.
func (s *Store) swap(anchors [][]byte, pool *x509.CertPool, tc *tls.Certificate) error {
	old := s.current.Load()
	if tc == old.cert && equalDER(anchors, old.anchorsDER) {
		return nil
	}
	n := s.build(anchors, pool, tc)
	if n.since = old.since; tc != old.cert {
		n.since = s.cfg.Now()
	}
	s.current.Store(n)
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

func parseAnchors(der [][]byte) (*x509.CertPool, error) {
	if len(der) == 0 {
		return nil, errors.New("the bundle is empty; at least one anchor is needed")
	}
	pool := x509.NewCertPool()
	for i, d := range der {
		c, err := x509.ParseCertificate(d)
		if err != nil {
			return nil, fmt.Errorf("anchor %d of %d: %w", i+1, len(der), err)
		}
		if !c.IsCA {
			return nil, fmt.Errorf("anchor %d of %d (%s) is not a CA certificate", i+1, len(der), c.Subject)
		}
		pool.AddCert(c)
	}
	return pool, nil
}

// check is what a peer would do with our certificate.
func (s *Store) check(c *Certificate, anchors *x509.CertPool) (*tls.Certificate, error) {
	if len(c.Chain) == 0 || c.Key == nil {
		return nil, errors.New("a chain and its key are needed")
	}
	chain := make([]*x509.Certificate, len(c.Chain))
	for i, d := range c.Chain {
		x, err := x509.ParseCertificate(d)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the chain: %w", i+1, err)
		}
		chain[i] = x
	}
	pub, ok := chain[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || !pub.Equal(&c.Key.PublicKey) {
		return nil, errors.New("the leaf is not for our key")
	}
	if _, _, err := verifyChain(chain, anchors, s.cfg.Now()); err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: c.Chain, PrivateKey: c.Key, Leaf: chain[0]}, nil
}

// ID is who we are; ok is false before the first certificate.
func (s *Store) ID() (id spiffe.ID, ok bool) {
	n := s.current.Load()
	return n.id, n.cert != nil
}

// NotAfter is when the certificate expires; the zero Time before the first.
func (s *Store) NotAfter() time.Time { return s.current.Load().notAfter }

// Left is the time until a share (0 to 1) of the certificate's life has passed,
// counted from when it was installed: issuers date back. It is not positive
// when that has passed, or when there is no certificate.
func (s *Store) Left(share float64) time.Duration {
	n := s.current.Load()
	if n.cert == nil {
		return 0
	}
	life := n.notAfter.Sub(n.since)
	return n.since.Add(time.Duration(share * float64(life))).Sub(s.cfg.Now())
}

// Valid reports whether there is a certificate that has not expired.
func (s *Store) Valid() bool {
	n := s.current.Load()
	return n.cert != nil && s.cfg.Now().Before(n.notAfter)
}

// Changed is closed at the next change; ask again after it.
func (s *Store) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}
