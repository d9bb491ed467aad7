package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/spiffe"
)

func newGuard(t *testing.T) *Guard {
	t.Helper()
	c, err := catalog.New(catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return New(c, "/open/Call")
}

// from is the context of a call over a connection with a verified certificate.
func from(t *testing.T, notAfter time.Time, uris ...string) context.Context {
	t.Helper()
	leaf := &x509.Certificate{NotAfter: notAfter}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		leaf.URIs = append(leaf.URIs, u)
	}
	return peer.NewContext(t.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}}})
}

func TestGuard(t *testing.T) {
	g := newGuard(t)
	later := time.Now().Add(time.Hour)
	const own = "spiffe://cluster.local/ns/a/sa/b"
	none := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{}})
	for name, tc := range map[string]struct {
		ctx    context.Context
		method string
		want   string // in the error; "" = let in
	}{
		"a good certificate":          {from(t, later, own), "/x/Call", ""},
		"none":                        {none, "/x/Call", "client certificate of the mesh is needed"},
		"none, where none is needed":  {none, "/open/Call", ""},
		"no TLS":                      {peer.NewContext(t.Context(), &peer.Peer{}), "/x/Call", "is needed"},
		"no connection":               {t.Context(), "/x/Call", "not known"},
		"one that has expired":        {from(t, time.Now().Add(-time.Second), own), "/x/Call", "has expired"},
		"one of another trust domain": {from(t, later, "spiffe://elsewhere/ns/a/sa/b"), "/x/Call", "trust domain"},
		"one of two identities":       {from(t, later, own, "spiffe://cluster.local/ns/a/sa/c"), "/x/Call", "names 2 URIs"},
		"one of none":                 {from(t, later), "/x/Call", "names 0 URIs"},
		"one of another kind of name": {from(t, later, "https://example.com"), "/x/Call", "spiffe://"},
		"one of a malformed identity": {from(t, later, "spiffe://cluster.local/ns/a"), "/x/Call", "want spiffe://"},
	} {
		_, err := g.Unary(tc.ctx, nil, &grpc.UnaryServerInfo{FullMethod: tc.method}, func(ctx context.Context, _ any) (any, error) {
			if id := Caller(ctx); !id.IsZero() && id.String() != own {
				t.Errorf("%s: the caller is %s", name, id)
			}
			return nil, nil
		})
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.want != "" && (status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// TestReserve: a service that is one caller's is nobody else's.
func TestReserve(t *testing.T) {
	g := newGuard(t)
	g.Reserve("tunmesh.query.v1.Query", spiffe.ID{TrustDomain: "cluster.local", Namespace: "tunmesh", ServiceAccount: "mesh-view"})
	later := time.Now().Add(time.Hour)
	for _, c := range []struct {
		who, method string
		want        codes.Code
	}{
		{"spiffe://cluster.local/ns/tunmesh/sa/mesh-view", "/tunmesh.query.v1.Query/Tap", codes.OK},
		{"spiffe://cluster.local/ns/tunmesh/sa/mesh-control", "/tunmesh.query.v1.Query/Tap", codes.PermissionDenied},
		{"spiffe://cluster.local/ns/app/sa/mesh-view", "/tunmesh.query.v1.Query/Health", codes.PermissionDenied},
		{"spiffe://cluster.local/ns/app/sa/web", "/tunmesh.tap.v1.Tap/Attach", codes.OK},
		{"", "/tunmesh.query.v1.Query/Tap", codes.Unauthenticated},
	} {
		ctx := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{}})
		if c.who != "" {
			ctx = from(t, later, c.who)
		}
		err := g.Stream(nil, fakeStream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: c.method}, func(any, grpc.ServerStream) error { return nil })
		if status.Code(err) != c.want {
			t.Errorf("%s by %q: %v, want %v", c.method, c.who, err, c.want)
		}
	}
}

type fakeStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s fakeStream) Context() context.Context { return s.ctx }

// TestStreamEndsWithItsCertificate: who has been let in stays only as long as the
// certificate holds.
func TestStreamEndsWithItsCertificate(t *testing.T) {
	g := newGuard(t)
	s := fakeStream{ctx: from(t, time.Now().Add(50*time.Millisecond), "spiffe://cluster.local/ns/a/sa/b")}
	err := g.Stream(nil, s, &grpc.StreamServerInfo{FullMethod: "/x/Watch"}, func(_ any, ss grpc.ServerStream) error {
		select {
		case <-ss.Context().Done():
			return ss.Context().Err()
		case <-time.After(5 * time.Second):
			return errors.New("still open after 5 s")
		}
	})
	if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "has expired") {
		t.Errorf("ended with %v", err)
	}
}
