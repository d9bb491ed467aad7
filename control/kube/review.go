package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/control/token"
)

// maxToken bounds a token: a kubelet's have some 1,200 bytes.
const maxToken = 16 << 10

// What the API server says of the pod that a token is bound to.
const (
	extraPodName = "authentication.kubernetes.io/pod-name"
	extraPodUID  = "authentication.kubernetes.io/pod-uid"
)

// Reviewer has the API server verify bound service account tokens. It has the
// shape of the identity service's TokenReviewer.
type Reviewer struct {
	client Client
}

// NewReviewer returns one.
func NewReviewer(c Client) *Reviewer { return &Reviewer{client: c} }

// Verify returns what a token proves to an audience. Errors that wrap
// token.ErrInvalid refuse it; others say that nobody could tell. What cannot be
// good is refused without a question: everybody may send tokens here.
func (r *Reviewer) Verify(ctx context.Context, tok, audience string) (token.Claims, error) {
	if err := plausible(tok, audience); err != nil {
		return token.Claims{}, fmt.Errorf("%w: %w", token.ErrInvalid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := r.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: tok, Audiences: []string{audience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return token.Claims{}, fmt.Errorf("review token: %w", err)
	}
	c, err := proven(&answer.Status, audience)
	if err != nil {
		return token.Claims{}, fmt.Errorf("%w: %w", token.ErrInvalid, err)
	}
	return c, nil
}

// plausible reads a token without believing it.
func plausible(tok, audience string) error {
	if len(tok) > maxToken {
		return fmt.Errorf("%d bytes long", len(tok))
	}
	var c jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(tok, &c); err != nil {
		return err
	}
	if !slices.Contains(c.Audience, audience) {
		return fmt.Errorf("it is for audience %q, not %q", strings.Join(c.Audience, ","), audience)
	}
	return nil
}

// proven reads what the API server says. Only its words count, not the token's.
func proven(s *authenticationv1.TokenReviewStatus, audience string) (token.Claims, error) {
	switch {
	case !s.Authenticated && s.Error != "":
		return token.Claims{}, fmt.Errorf("the API server says: %s", s.Error)
	case !s.Authenticated:
		return token.Claims{}, errors.New("the API server does not know it")
	case !slices.Contains(s.Audiences, audience):
		// A server that does not know of audiences verifies for its own.
		return token.Claims{}, fmt.Errorf("the API server verified it for %v, not %q", s.Audiences, audience)
	}
	parts := strings.Split(s.User.Username, ":")
	if len(parts) != 4 || parts[0] != "system" || parts[1] != "serviceaccount" || parts[2] == "" || parts[3] == "" {
		return token.Claims{}, fmt.Errorf("%q is no service account", s.User.Username)
	}
	c := token.Claims{Namespace: parts[2], ServiceAccount: parts[3]}
	if v := s.User.Extra[extraPodName]; len(v) == 1 {
		c.Pod = v[0]
	}
	if v := s.User.Extra[extraPodUID]; len(v) == 1 {
		c.PodUID = v[0]
	}
	if c.Pod == "" || c.PodUID == "" {
		return token.Claims{}, errors.New("it is not bound to a pod")
	}
	return c, nil
}
