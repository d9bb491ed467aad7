package kube

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// bearerMemory is how long the API server's word about a token is believed: a
	// dashboard asks twenty questions at once. A token that is taken back works that
	// much longer.
	bearerMemory = 10 * time.Second
	// maxBearers bounds the tokens whose owners are remembered, bearerReviews the
	// questions about them at once: everybody may send tokens here.
	maxBearers    = 256
	bearerReviews = 8
)

// Bearers has the API server say whose a token is that somebody shows.
type Bearers struct {
	client Client
	places chan struct{}
	now    func() time.Time

	mu    sync.Mutex
	known map[[sha256.Size]byte]bearer
}

type bearer struct {
	subject Subject
	err     error
	until   time.Time
}

// NewBearers returns one that knows nobody.
func NewBearers(c Client) *Bearers {
	return &Bearers{client: c, places: make(chan struct{}, bearerReviews), now: time.Now, known: map[[sha256.Size]byte]bearer{}}
}

// Subject says whose a token is. Errors are gRPC statuses: Unauthenticated refuses
// it, others say that nobody could tell.
func (b *Bearers) Subject(ctx context.Context, token string) (Subject, error) {
	if token == "" || len(token) > maxToken {
		return Subject{}, status.Error(codes.Unauthenticated, "the bearer token is none")
	}
	key := sha256.Sum256([]byte(token))
	b.mu.Lock()
	k, ok := b.known[key]
	b.mu.Unlock()
	if ok && b.now().Before(k.until) {
		return k.subject, k.err
	}
	select {
	case b.places <- struct{}{}:
		defer func() { <-b.places }()
	default:
		return Subject{}, status.Error(codes.ResourceExhausted, "too many tokens are looked at: try again later")
	}
	subject, err := b.review(ctx, token)
	if err == nil || status.Code(err) == codes.Unauthenticated {
		b.remember(key, bearer{subject, err, b.now().Add(bearerMemory)})
	}
	return subject, err
}

func (b *Bearers) remember(key [sha256.Size]byte, k bearer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for old, k := range b.known {
		if !b.now().Before(k.until) || len(b.known) >= maxBearers {
			delete(b.known, old)
		}
	}
	b.known[key] = k
}

func (b *Bearers) review(ctx context.Context, token string) (Subject, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := b.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return Subject{}, status.Error(codes.Unavailable, fmt.Errorf("review token: %w", err).Error())
	}
	s := answer.Status
	if !s.Authenticated || s.User.Username == "" {
		why := errors.New("the API server does not know the bearer token")
		if s.Error != "" {
			why = fmt.Errorf("%w: %s", why, s.Error)
		}
		return Subject{}, status.Error(codes.Unauthenticated, why.Error())
	}
	who := Subject{Name: s.User.Username, Groups: s.User.Groups, Extra: map[string][]string{}}
	for k, v := range s.User.Extra {
		who.Extra[k] = v
	}
	return who, nil
}
