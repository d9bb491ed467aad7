package discover_test

import (
	"os"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	identityapi "github.com/tunmesh/tunmesh/api/identity"
	"github.com/tunmesh/tunmesh/tunproxy/discover"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
)

// A certificate is renewed in time, with the token as it is then, and the new
// one is used: the connection is made anew.
func TestRenewal(t *testing.T) {
	p := newPlane(t)
	p.life = 3 * time.Second
	f := p.target(svc)
	f.say(service(1, "10.1.0.1:80"))
	p.start()
	s := start(t, p, nil)
	s.ready()
	if _, err := s.lookup(svc); err != nil {
		t.Fatal(err)
	}
	first, began := s.store.NotAfter(), time.Now()
	s.writeToken("second")
	eventually(t, "renewed", func() bool { return s.store.NotAfter().After(first) })
	if took := time.Since(began); took > 2900*time.Millisecond || took < 1200*time.Millisecond {
		t.Errorf("renewed after %v of 3 s", took)
	}
	p.mu.Lock()
	tokens := append([]string{}, p.tokens...)
	p.mu.Unlock()
	if len(tokens) != 2 || tokens[0] != jwt("system:serviceaccount:prod:web", "first") || tokens[1] != jwt("system:serviceaccount:prod:web", "second") {
		t.Errorf("tokens %q", tokens)
	}
	eventually(t, "the new certificate is in use", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.serials) >= 2
	})
	eventually(t, "watched again", func() bool { return p.begun(svc) >= 2 })
	if s.client.Ready() != nil {
		t.Error("not ready after a renewal")
	}
}

// A new generation makes us renew; the bundle is in force at once.
func TestTrustRotation(t *testing.T) {
	p := newPlane(t)
	p.start()
	s := start(t, p, nil)
	s.ready()
	next := mtlstest.NewCA(t)
	both := append(p.ca.Anchors(), next.Anchors()...)
	p.mu.Lock()
	p.certify = func(r *identityapi.CertifyResponse) (*identityapi.CertifyResponse, error) {
		r.Generation, r.Anchors = 2, both
		return r, nil
	}
	p.mu.Unlock()
	before := s.store.Changed()
	p.trust.say(&identityapi.TrustBundle{Anchors: both, Generation: 2})
	<-before
	eventually(t, "renewed", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.tokens) == 2
	})
	eventually(t, "connected again", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.serials) == 2
	})
	time.Sleep(100 * time.Millisecond)
	if n := len(p.tokens); n != 2 {
		t.Errorf("%d renewals for one generation", n-1)
	}
}

// An empty or unreadable bundle does not touch the anchors.
func TestMalformedTrust(t *testing.T) {
	p := newPlane(t)
	p.start()
	s := start(t, p, nil)
	s.ready()
	eventually(t, "the first bundle", func() bool { return s.client.Connected() })
	changed := s.store.Changed()
	for i, b := range []*identityapi.TrustBundle{{Generation: 9}, {Anchors: [][]byte{{1, 2, 3}}}, {}} {
		p.trust.say(b)
		eventually(t, "refused", func() bool { return s.refused() > uint64(i) })
		p.trust.set(&identityapi.TrustBundle{Anchors: p.ca.Anchors(), Generation: 1})
	}
	select {
	case <-changed:
		t.Error("the anchors changed")
	default:
	}
}

// What Certify answers is checked before it is used; the next try may be better.
func TestMalformedCertificate(t *testing.T) {
	other := mtlstest.NewCA(t)
	for name, f := range map[string]func(r *identityapi.CertifyResponse) (*identityapi.CertifyResponse, error){
		"no anchors": func(r *identityapi.CertifyResponse) (*identityapi.CertifyResponse, error) {
			r.Anchors = nil
			return r, nil
		},
		"no chain": func(r *identityapi.CertifyResponse) (*identityapi.CertifyResponse, error) {
			r.Chain = nil
			return r, nil
		},
		"garbage": func(r *identityapi.CertifyResponse) (*identityapi.CertifyResponse, error) {
			r.Chain[0] = []byte{1}
			return r, nil
		},
		"foreign anchors": func(r *identityapi.CertifyResponse) (*identityapi.CertifyResponse, error) {
			r.Anchors = other.Anchors()
			return r, nil
		},
		"another's": func(r *identityapi.CertifyResponse) (*identityapi.CertifyResponse, error) {
			r.Chain[0] = other.Issue(t, mtlstest.Leaf{URIs: []string{webID.String()}}).Chain[0]
			return r, nil
		},
		"unavailable": func(*identityapi.CertifyResponse) (*identityapi.CertifyResponse, error) {
			return nil, status.Error(codes.Unavailable, "issuer not ready")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlane(t)
			tries := 0
			p.certify = func(r *identityapi.CertifyResponse) (*identityapi.CertifyResponse, error) {
				if tries++; tries <= 2 {
					return f(r)
				}
				return r, nil
			}
			p.start()
			s := start(t, p, nil)
			s.ready()
			if tries != 3 {
				t.Errorf("%d tries", tries)
			}
		})
	}
}

func TestToken(t *testing.T) {
	p := newPlane(t)
	p.start()
	for name, token := range map[string]string{
		"empty": "", "no jwt": "hello", "odd payload": "a.!.c", "no json": "a.aGVsbG8.c",
		"no service account": jwt("alice", ""), "odd account": jwt("system:serviceaccount:prod:Web", ""),
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, p, func(c *discover.Config) {
				if err := os.WriteFile(c.TokenPath, []byte(token), 0o600); err != nil {
					t.Fatal(err)
				}
			})
			time.Sleep(50 * time.Millisecond)
			if s.client.Ready() == nil {
				t.Fatal("ready with a bad token")
			}
			s.writeToken("good") // it comes in time for the next try
			s.ready()
		})
	}
	for _, tok := range p.tokens {
		if tok != jwt("system:serviceaccount:prod:web", "good") {
			t.Errorf("the token %q was sent", tok)
		}
	}
}

// A control plane that does not take our certificate any more gets to see the
// token again.
func TestCertificateNotTaken(t *testing.T) {
	p := newPlane(t)
	p.start()
	s := start(t, p, nil)
	s.ready()
	p.mu.Lock()
	p.deny = status.Error(codes.Unauthenticated, "who was that")
	p.mu.Unlock()
	p.kill()
	p.start()
	eventually(t, "asked for another certificate", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.tokens) >= 2
	})
	p.mu.Lock()
	p.deny = nil
	p.mu.Unlock()
	eventually(t, "connected", s.client.Connected)
	if s.client.Ready() != nil {
		t.Error("not ready")
	}
}
