package kube_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/kube"
	"github.com/tunmesh/tunmesh/control/sourcetest"
	"github.com/tunmesh/tunmesh/control/token"
)

const audience = "identity.tunmesh.io"

func signed(t *testing.T, audiences ...string) string {
	t.Helper()
	s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{
		Audience: audiences, ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Hour)),
	}).SignedString([]byte("whatever the API server says counts"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReview(t *testing.T) {
	good := authenticationv1.TokenReviewStatus{
		Authenticated: true, Audiences: []string{audience},
		User: authenticationv1.UserInfo{Username: "system:serviceaccount:shop:web", Extra: map[string]authenticationv1.ExtraValue{
			"authentication.kubernetes.io/pod-name": {"web-1"}, "authentication.kubernetes.io/pod-uid": {"u1"},
		}},
	}
	ours := signed(t, audience)
	for _, tc := range []struct {
		name   string
		token  string
		change func(*authenticationv1.TokenReviewStatus)
		err    error // of the call
		want   string
		asked  int
	}{
		{name: "good", token: ours, asked: 1},
		{name: "several audiences", token: signed(t, "x", audience), asked: 1},
		{name: "another audience", token: signed(t, "https://kubernetes.default.svc"), want: `it is for audience "https://kubernetes.default.svc", not "identity.tunmesh.io"`},
		{name: "no token", token: "", want: "malformed"},
		{name: "no JWT", token: "abc", want: "malformed"},
		{name: "too long", token: strings.Repeat("x", 17<<10), want: "17408 bytes long"},
		{name: "expired", token: ours, asked: 1, want: "the API server says: token has expired", change: func(s *authenticationv1.TokenReviewStatus) {
			*s = authenticationv1.TokenReviewStatus{Error: "token has expired"}
		}},
		{name: "of a deleted pod", token: ours, asked: 1, want: "the API server does not know it", change: func(s *authenticationv1.TokenReviewStatus) {
			*s = authenticationv1.TokenReviewStatus{}
		}},
		{name: "verified for the server's own audience", token: ours, asked: 1, want: "the API server verified it for [api]", change: func(s *authenticationv1.TokenReviewStatus) { s.Audiences = []string{"api"} }},
		{name: "verified for nobody in particular", token: ours, asked: 1, want: "the API server verified it for []", change: func(s *authenticationv1.TokenReviewStatus) { s.Audiences = nil }},
		{name: "a person's", token: ours, asked: 1, want: `"admin" is no service account`, change: func(s *authenticationv1.TokenReviewStatus) { s.User.Username = "admin" }},
		{name: "a node's", token: ours, asked: 1, want: "is no service account", change: func(s *authenticationv1.TokenReviewStatus) { s.User.Username = "system:node:a:b" }},
		{name: "not of a pod", token: ours, asked: 1, want: "it is not bound to a pod", change: func(s *authenticationv1.TokenReviewStatus) { s.User.Extra = nil }},
		{name: "nobody answers", token: ours, asked: 1, err: errors.New("connection refused"), want: "review token: connection refused"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			asked := 0
			client := fake.NewClientset()
			client.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
				asked++
				r := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
				if r.Spec.Token != tc.token || len(r.Spec.Audiences) != 1 || r.Spec.Audiences[0] != audience {
					t.Errorf("asked about %+v", r.Spec)
				}
				good.DeepCopyInto(&r.Status)
				if tc.change != nil {
					tc.change(&r.Status)
				}
				return true, r, tc.err
			})
			got, err := kube.NewReviewer(client).Verify(t.Context(), tc.token, audience)
			if asked != tc.asked {
				t.Errorf("asked %d times, want %d", asked, tc.asked)
			}
			switch {
			case tc.want == "":
				if err != nil || got != (token.Claims{Namespace: "shop", ServiceAccount: "web", Pod: "web-1", PodUID: "u1"}) {
					t.Errorf("%+v, %v", got, err)
				}
			case err == nil || !strings.Contains(err.Error(), tc.want):
				t.Errorf("%v, want %q", err, tc.want)
			case errors.Is(err, token.ErrInvalid) != (tc.err == nil):
				t.Errorf("%v: refused for good is %v", err, errors.Is(err, token.ErrInvalid))
			}
		})
	}
}

func FuzzReview(f *testing.F) {
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.eyJhdWQiOlsieCJdfQ.")
	client := fake.NewClientset()
	client.PrependReactor("create", "tokenreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, &authenticationv1.TokenReview{}, nil
	})
	r := kube.NewReviewer(client)
	f.Fuzz(func(t *testing.T, tok string) {
		if c, err := r.Verify(t.Context(), tok, audience); !errors.Is(err, token.ErrInvalid) {
			t.Errorf("%q: %+v, %v", tok, c, err)
		}
	})
}

func TestLookUp(t *testing.T) {
	client := fake.NewClientset(sourcetest.Pod("a", "10.1.0.1"), sourcetest.Namespace("default", "", ""))
	p, err := kube.LookUpPod(t.Context(), client, catalog.Key{Namespace: "default", Name: "a"})
	if err != nil || p == nil || p.UID != "uid-a" {
		t.Errorf("pod: %+v, %v", p, err)
	}
	if p, err := kube.LookUpPod(t.Context(), client, catalog.Key{Namespace: "default", Name: "b"}); p != nil || err != nil {
		t.Errorf("no pod: %+v, %v", p, err)
	}
	if n, err := kube.LookUpNamespace(t.Context(), client, "default"); err != nil || n == nil || n.Name != "default" {
		t.Errorf("namespace: %+v, %v", n, err)
	}
	if n, err := kube.LookUpNamespace(t.Context(), client, "x"); n != nil || err != nil {
		t.Errorf("no namespace: %+v, %v", n, err)
	}
	client.PrependReactor("get", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("connection refused")
	})
	if _, err := kube.LookUpPod(t.Context(), client, catalog.Key{Namespace: "default", Name: "a"}); err == nil {
		t.Error("nobody answers, and it is not said")
	}
}
