package token

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// issuer is what our tokens say they are from.
const issuer = "tunmesh-local"

// maxSize bounds a token: ours have some 700 bytes.
const maxSize = 16 << 10

// ErrInvalid is what Verify's errors wrap.
var ErrInvalid = errors.New("token is not valid")

// wire is the payload, shaped like Kubernetes' bound tokens so that tools that
// print those print ours.
type wire struct {
	jwt.RegisteredClaims
	Kubernetes struct {
		Namespace      string    `json:"namespace"`
		Pod            reference `json:"pod"`
		ServiceAccount reference `json:"serviceaccount"`
	} `json:"kubernetes.io"`
}

type reference struct {
	Name string `json:"name"`
	UID  string `json:"uid,omitempty"`
}

// Mint makes a token for a pod and one audience that holds for lifetime, at most
// MaxLifetime. Renew it at 80 % of that, as a kubelet does.
func (k *Key) Mint(c Claims, audience string, lifetime time.Duration) (string, error) {
	switch {
	case c.Namespace == "" || c.ServiceAccount == "" || c.Pod == "" || c.PodUID == "":
		return "", fmt.Errorf("mint token: claims %+v: namespace, service account, pod and its UID are all needed", c)
	case audience == "":
		return "", errors.New("mint token: no audience")
	case lifetime <= 0 || lifetime > MaxLifetime:
		return "", fmt.Errorf("mint token: lifetime %v is not within %v", lifetime, MaxLifetime)
	}
	now := k.now()
	w := wire{RegisteredClaims: jwt.RegisteredClaims{
		Issuer:    issuer,
		Subject:   "system:serviceaccount:" + c.Namespace + ":" + c.ServiceAccount,
		Audience:  jwt.ClaimStrings{audience},
		ExpiresAt: jwt.NewNumericDate(now.Add(lifetime)),
		NotBefore: jwt.NewNumericDate(now),
		IssuedAt:  jwt.NewNumericDate(now),
	}}
	w.Kubernetes.Namespace = c.Namespace
	w.Kubernetes.Pod = reference{c.Pod, c.PodUID}
	w.Kubernetes.ServiceAccount = reference{Name: c.ServiceAccount}
	s, err := jwt.NewWithClaims(jwt.SigningMethodES256, w).SignedString(k.private)
	if err != nil {
		return "", fmt.Errorf("mint token: %w", err)
	}
	return s, nil
}

// Verify returns what a token proves to an audience. Its errors wrap
// ErrInvalid. It has the shape of the control plane's TokenReviewer; ctx is not
// needed here.
func (k *Key) Verify(_ context.Context, token, audience string) (Claims, error) {
	if len(token) > maxSize {
		return Claims{}, fmt.Errorf("%w: %d bytes long", ErrInvalid, len(token))
	}
	var w wire
	_, err := jwt.ParseWithClaims(token, &w, func(*jwt.Token) (any, error) { return &k.private.PublicKey, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}),
		jwt.WithIssuer(issuer), jwt.WithAudience(audience),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding(),
		jwt.WithTimeFunc(k.now))
	if err != nil {
		return Claims{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c := Claims{
		Namespace: w.Kubernetes.Namespace, ServiceAccount: w.Kubernetes.ServiceAccount.Name,
		Pod: w.Kubernetes.Pod.Name, PodUID: w.Kubernetes.Pod.UID,
	}
	switch {
	case w.IssuedAt == nil:
		return Claims{}, fmt.Errorf("%w: it does not say when it was issued", ErrInvalid)
	case w.ExpiresAt.Sub(w.IssuedAt.Time) > MaxLifetime:
		return Claims{}, fmt.Errorf("%w: it holds for more than %v", ErrInvalid, MaxLifetime)
	case c.Namespace == "" || c.ServiceAccount == "" || c.Pod == "" || c.PodUID == "":
		return Claims{}, fmt.Errorf("%w: it is not bound to a pod", ErrInvalid)
	case w.Subject != "system:serviceaccount:"+c.Namespace+":"+c.ServiceAccount:
		return Claims{}, fmt.Errorf("%w: its subject %q is not its service account", ErrInvalid, w.Subject)
	}
	return c, nil
}
