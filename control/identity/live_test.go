package identity

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tunmesh/tunmesh/api/identity"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/token"
)

// authority is an anchor and what it signed.
type authority struct{ anchor, anchorKey, cert, key []byte }

func made(t *testing.T, at time.Time) authority {
	t.Helper()
	var a authority
	var err error
	if a.anchor, a.anchorKey, err = NewAnchor("cluster.local", at); err != nil {
		t.Fatal(err)
	}
	a.cert, a.key = a.issuer(t, at)
	return a
}

func (a authority) issuer(t *testing.T, at time.Time) (cert, key []byte) {
	t.Helper()
	cert, key, err := NewIssuer(a.anchor, a.anchorKey, "cluster.local", at)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// live runs a Live until the test ends.
func live(t *testing.T) *Live {
	t.Helper()
	l := NewLive(slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l
}

// tell tells both, and waits until they have been judged.
func tell(t *testing.T, l *Live, anchors, cert, key []byte) {
	t.Helper()
	l.SetAnchors(t.Context(), "ConfigMap tunmesh/anchors", anchors)
	l.SetIssuer(t.Context(), "Secret tunmesh/issuer", cert, key)
	l.SetIssuer(t.Context(), "Secret tunmesh/issuer", cert, key) // the first of the two has been judged by now
}

func TestLiveStates(t *testing.T) {
	now := time.Now()
	good, other := made(t, now), made(t, now)
	oldCert, oldKey := good.issuer(t, now.Add(-2*issuerLifetime))
	newCert, newKey := good.issuer(t, now.Add(48*time.Hour))
	for _, tc := range []struct {
		name               string
		anchors, cert, key []byte
		problem            string
	}{
		{"good", good.anchor, good.cert, good.key, ""},
		{"two anchors", append(append([]byte{}, other.anchor...), good.anchor...), good.cert, good.key, ""},
		{"no anchors", nil, good.cert, good.key, "read trust anchors: there is nothing in ConfigMap tunmesh/anchors"},
		{"no issuer", good.anchor, nil, nil, "read issuer: there is nothing in Secret tunmesh/issuer"},
		{"foreign issuer", good.anchor, other.cert, other.key, "does not lead to a trust anchor"},
		{"expired issuer", good.anchor, oldCert, oldKey, "has expired on "},
		{"issuer of tomorrow", good.anchor, newCert, newKey, "does not hold before "},
		{"another key", good.anchor, good.cert, other.key, "the key is not that of certificate"},
		{"no PEM", good.anchor, []byte("x"), []byte("x"), "no PEM certificate"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := live(t)
			if l.Current() != nil || l.Problem() == "" {
				t.Error("something is in force before anything was told")
			}
			tell(t, l, tc.anchors, tc.cert, tc.key)
			if got := l.Problem(); (got == "") != (tc.problem == "") || !strings.Contains(got, tc.problem) {
				t.Errorf("problem %q, want %q", got, tc.problem)
			}
			if (l.Current() != nil) != (tc.problem == "") {
				t.Errorf("in force: %v", l.Current())
			}
			// Whatever it was, what is good afterwards is in force, and what is bad after
			// that leaves it there.
			tell(t, l, good.anchor, good.cert, good.key)
			first := l.Current()
			if first == nil || l.Problem() != "" {
				t.Fatalf("a good one is not in force: %s", l.Problem())
			}
			tell(t, l, tc.anchors, tc.cert, tc.key)
			if tc.problem != "" && l.Current() != first {
				t.Error("a bad one took the good one's place")
			}
		})
	}
}

// TestLiveRotation: a new anchor beside the old, a new issuer, the old anchor
// gone: each step is in force, another generation, and wakes who waits.
func TestLiveRotation(t *testing.T) {
	now := time.Now()
	old, next := made(t, now), made(t, now)
	both := append(append([]byte{}, old.anchor...), next.anchor...)
	l := live(t)
	seen := map[uint64]bool{}
	for _, step := range []struct{ anchors, cert, key []byte }{
		{old.anchor, old.cert, old.key}, {both, old.cert, old.key}, {both, next.cert, next.key}, {next.anchor, next.cert, next.key},
	} {
		changed := l.Changed()
		tell(t, l, step.anchors, step.cert, step.key)
		a := l.Current()
		if a == nil || l.Problem() != "" || seen[a.Generation()] {
			t.Fatalf("step %d: problem %q", len(seen), l.Problem())
		}
		seen[a.Generation()] = true
		select {
		case <-changed:
		default:
			t.Error("nobody was woken")
		}
	}
}

// TestLiveExpires: an issuer that comes to its end while it is in force signs
// nothing any more and is named.
func TestLiveExpires(t *testing.T) {
	now := time.Now()
	a := made(t, now)
	l := NewLive(slog.New(slog.DiscardHandler))
	l.take(update{what: theAnchors, cert: a.anchor})
	l.take(update{what: theIssuer, cert: a.cert, key: a.key})
	l.judge()
	if l.Problem() != "" {
		t.Fatal(l.Problem())
	}
	l.now = func() time.Time { return now.Add(issuerLifetime + time.Hour) }
	l.judge()
	if !strings.Contains(l.Problem(), "has expired on") {
		t.Errorf("problem %q", l.Problem())
	}
	s, c := lookupServer(t, l, nil)
	s.now = l.now
	c.Apply(catalog.Put(&catalog.Pod{Key: catalog.Key{Namespace: "default", Name: "a"}, UID: "u", ServiceAccount: "sa", Phase: "Running"}))
	_, err := s.Certify(t.Context(), &api.CertifyRequest{Csr: signingRequest(t, "spiffe://cluster.local/ns/default/sa/sa"), Token: "t"})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "expired") {
		t.Errorf("certified by an expired issuer: %v", err)
	}
}

// reviewer takes every token for that of pod default/a with uid u.
type reviewer struct{}

func (reviewer) Verify(context.Context, string, string) (token.Claims, error) {
	return token.Claims{Namespace: "default", ServiceAccount: "sa", Pod: "a", PodUID: "u"}, nil
}

func lookupServer(t *testing.T, src Source, lookup func(context.Context, catalog.Key) (*catalog.Pod, error)) (*Server, *catalog.Catalog) {
	t.Helper()
	c, err := catalog.New(catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	c.Sync()
	s, err := NewServer(Config{Source: src, Tokens: reviewer{}, Catalog: c, Lookup: lookup})
	if err != nil {
		t.Fatal(err)
	}
	s.podWait = time.Hour // a busy machine changes nothing
	return s, c
}

// TestLookup: a pod that the catalog does not know is asked for, once.
func TestLookup(t *testing.T) {
	l := live(t)
	a := made(t, time.Now())
	tell(t, l, a.anchor, a.cert, a.key)
	pod := func(change func(*catalog.Pod)) *catalog.Pod {
		p := &catalog.Pod{Key: catalog.Key{Namespace: "default", Name: "a"}, UID: "u", ServiceAccount: "sa", Phase: "Running"}
		if change != nil {
			change(p)
		}
		return p
	}
	for _, tc := range []struct {
		name string
		pod  *catalog.Pod
		err  error
		want codes.Code
	}{
		{"there it is", pod(nil), nil, codes.OK},
		{"gone", nil, nil, codes.Unauthenticated},
		{"another of that name", pod(func(p *catalog.Pod) { p.UID = "v" }), nil, codes.Unauthenticated},
		{"another account", pod(func(p *catalog.Pod) { p.ServiceAccount = "root" }), nil, codes.Unauthenticated},
		{"ended", pod(func(p *catalog.Pod) { p.Phase = "Failed" }), nil, codes.Unauthenticated},
		{"leaving", pod(func(p *catalog.Pod) { p.Terminating, p.EndsBy = true, time.Now().Add(time.Hour).Unix() }), nil, codes.OK},
		{"should have left", pod(func(p *catalog.Pod) { p.Terminating, p.EndsBy = true, time.Now().Add(-time.Hour).Unix() }), nil, codes.Unauthenticated},
		{"nobody answers", nil, context.DeadlineExceeded, codes.Unavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			asked := 0
			s, _ := lookupServer(t, l, func(_ context.Context, k catalog.Key) (*catalog.Pod, error) {
				asked++
				if k.String() != "default/a" {
					t.Errorf("asked for %s", k)
				}
				return tc.pod, tc.err
			})
			_, err := s.Certify(t.Context(), &api.CertifyRequest{Csr: signingRequest(t, "spiffe://cluster.local/ns/default/sa/sa"), Token: "t"})
			if status.Code(err) != tc.want || asked != 1 {
				t.Errorf("%v after %d questions, want %s after one", err, asked, tc.want)
			}
		})
	}
	t.Run("known is not asked for", func(t *testing.T) {
		s, c := lookupServer(t, l, func(context.Context, catalog.Key) (*catalog.Pod, error) {
			t.Error("asked")
			return nil, nil
		})
		c.Apply(catalog.Put(pod(nil)))
		for csr, want := range map[string]codes.Code{
			"spiffe://cluster.local/ns/default/sa/sa":   codes.OK,
			"spiffe://cluster.local/ns/default/sa/root": codes.PermissionDenied,
		} {
			if _, err := s.Certify(t.Context(), &api.CertifyRequest{Csr: signingRequest(t, csr), Token: "t"}); status.Code(err) != want {
				t.Errorf("%s: %v", csr, err)
			}
		}
	})
}

func signingRequest(t *testing.T, id string) []byte {
	t.Helper()
	return csr(t, newKey(t), func(r *x509.CertificateRequest) { r.URIs = []*url.URL{uri(t, id)} })
}
