package serving

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"maps"
	"testing"
	"time"
)

// shared is a Secret and a configuration that several replicas share. A keeper's
// copy of the Secret is what it was told last: to save needs the latest.
type shared struct {
	data    map[string][]byte
	version int
	bundle  []byte
	there   bool
	saves   int
	down    error
}

type replica struct {
	s    *shared
	seen int
	k    *Keeper
}

func (r *replica) SaveAuthority(_ context.Context, data map[string][]byte) error {
	if r.s.down != nil {
		return r.s.down
	}
	if r.seen != r.s.version {
		return errors.New("somebody was quicker")
	}
	r.s.data, r.s.version = maps.Clone(data), r.s.version+1
	r.s.saves++
	return nil
}

func (r *replica) SaveBundle(_ context.Context, bundle []byte) error {
	if r.s.down != nil {
		return r.s.down
	}
	r.s.bundle = bundle
	return nil
}

// hears brings the replica's picture up to date and has it act until it has
// nothing more to do.
func (r *replica) hears(t *testing.T) error {
	t.Helper()
	var err error
	for range 5 {
		r.seen = r.s.version
		r.k.hear(event{secret: true, data: r.s.data})
		r.k.hear(event{exists: r.s.there, bundle: r.s.bundle})
		err = r.k.step(t.Context())
	}
	return err
}

func newReplica(s *shared, now *time.Time) *replica {
	r := &replica{s: s}
	r.k = NewKeeper(r, slog.New(slog.DiscardHandler), "the injector", "mesh-injector.tunmesh.svc")
	r.k.now = func() time.Time { return *now }
	return r
}

// believed verifies what a replica serves with what the API server believes.
func believed(t *testing.T, r *replica, now time.Time) {
	t.Helper()
	c, err := r.k.Certificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(r.s.bundle) {
		t.Fatal("the API server believes nothing")
	}
	if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "mesh-injector.tunmesh.svc", CurrentTime: now}); err != nil {
		t.Error(err)
	}
}

func TestKeeperFirst(t *testing.T) {
	now := time.Now()
	s := &shared{there: true}
	a, b := newReplica(s, &now), newReplica(s, &now)
	if _, err := a.k.Certificate(nil); err == nil || a.k.Problem() == "" {
		t.Error("something to serve with before anything is known")
	}
	// Both see no authority at once; the second is too late.
	a.k.hear(event{secret: true})
	a.k.hear(event{exists: true})
	b.k.hear(event{secret: true})
	b.k.hear(event{exists: true})
	if err := a.k.step(t.Context()); err != nil {
		t.Error(err)
	}
	if err := b.k.step(t.Context()); err == nil {
		t.Error("two authorities")
	}
	for _, r := range []*replica{a, b} {
		if err := r.hears(t); err != nil || r.k.Problem() != "" {
			t.Error(err, r.k.Problem())
		}
		believed(t, r, now)
	}
	if s.saves != 1 {
		t.Errorf("%d authorities were made", s.saves)
	}
}

// TestKeeperRotates: years of a life; at each moment all replicas serve what the
// API server believes, also one that has just started.
func TestKeeperRotates(t *testing.T) {
	now := time.Now()
	s := &shared{there: true}
	a, b := newReplica(s, &now), newReplica(s, &now)
	for range 3 * 365 / 5 {
		for _, r := range []*replica{a, b, newReplica(s, &now)} {
			if err := r.hears(t); err != nil {
				t.Fatal(err)
			}
			believed(t, r, now)
		}
		now = now.Add(settle)
		for _, r := range []*replica{a, b} {
			if err := r.hears(t); err != nil {
				t.Fatal(err)
			}
			believed(t, r, now)
		}
		now = now.Add(5 * 24 * time.Hour)
	}
	if s.saves < 4 || s.saves > 6 {
		t.Errorf("%d authorities in three years", s.saves)
	}
	if c, err := parseCA(s.data); err != nil || len(c.bundle) > 3 {
		t.Errorf("%d certificates are believed, %v", len(c.bundle), err)
	}
}

// TestKeeperRepairs: what somebody else did to the Secret or the configuration.
func TestKeeperRepairs(t *testing.T) {
	now := time.Now()
	s := &shared{there: true}
	r := newReplica(s, &now)
	if err := r.hears(t); err != nil {
		t.Fatal(err)
	}
	for what, harm := range map[string]func(){
		"the bundle is emptied": func() { s.bundle = nil },
		"the bundle is another": func() { s.bundle = []byte("x") },
		"the Secret is removed": func() { s.data, s.version = nil, s.version+1 },
		"the Secret is garbage": func() { s.data, s.version = map[string][]byte{BundleKey: []byte("x")}, s.version+1 },
		"the key is another": func() {
			s.data, s.version = map[string][]byte{BundleKey: s.data[BundleKey], PrivateKey: []byte("x")}, s.version+1
		},
		"the webhook is removed": func() { s.there, s.bundle = false, nil },
	} {
		harm()
		if err := r.hears(t); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if !s.there {
			if r.k.Problem() == "" {
				t.Errorf("%s: no problem", what)
			}
			s.there = true
			if err := r.hears(t); err != nil {
				t.Error(err)
			}
		}
		now = now.Add(settle)
		if err := r.hears(t); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		believed(t, r, now)
	}
	s.down = errors.New("connection refused")
	s.bundle = nil
	if err := r.hears(t); err == nil {
		t.Error("an API server that is away is no problem")
	}
	if _, err := r.k.Certificate(nil); err != nil {
		t.Error("and the certificate is gone with it:", err)
	}
}
