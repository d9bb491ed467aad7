package kube_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tunmesh/tunmesh/control/kube"
)

// TestBearers: only the API server says whose a token is, it is asked once for a
// while, and what nobody could tell is not remembered.
func TestBearers(t *testing.T) {
	c := fake.NewClientset()
	asked, away := 0, false
	c.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		asked++
		if away {
			return true, nil, errors.New("the API server is away")
		}
		r := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview)
		if r.Spec.Token == "grafana's" {
			r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{
				Username: "system:serviceaccount:m:grafana", Groups: []string{"g"}, Extra: map[string]authenticationv1.ExtraValue{"k": {"v"}},
			}}
		} else {
			r.Status.Error = "it has expired"
		}
		return true, r, nil
	})
	b := kube.NewBearers(c)
	for range 3 {
		who, err := b.Subject(t.Context(), "grafana's")
		if err != nil || who.Name != "system:serviceaccount:m:grafana" || fmt.Sprint(who.Groups, who.Extra) != "[g] map[k:[v]]" {
			t.Fatalf("%+v, %v", who, err)
		}
		if _, err := b.Subject(t.Context(), "old"); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "it has expired") {
			t.Fatal(err)
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times about two tokens", asked)
	}
	for _, none := range []string{"", strings.Repeat("x", 17<<10)} {
		if _, err := b.Subject(t.Context(), none); status.Code(err) != codes.Unauthenticated {
			t.Error(err)
		}
	}
	away = true
	for range 2 {
		if _, err := b.Subject(t.Context(), "new"); status.Code(err) != codes.Unavailable {
			t.Error(err)
		}
	}
	if asked != 4 {
		t.Errorf("asked %d times, want 4: what nobody could tell is asked again", asked)
	}
	away = false
	for i := range 600 { // the memory is bounded, and what falls out is asked for again
		if _, err := b.Subject(t.Context(), fmt.Sprint("other", i)); status.Code(err) != codes.Unauthenticated {
			t.Fatal(err)
		}
	}
	if _, err := b.Subject(t.Context(), "grafana's"); err != nil {
		t.Error(err)
	}
}
