package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const audience = "identity.tunmesh.io"

func claims() Claims {
	return Claims{Namespace: "shop", ServiceAccount: "web", Pod: "web-1", PodUID: "u1"}
}

func open(t *testing.T, dir string) *Key {
	t.Helper()
	k, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestRoundTripOverRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tokens")
	tok, err := open(t, dir).Mint(claims(), audience, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	got, err := open(t, dir).Verify(context.Background(), tok, audience)
	if err != nil || got != claims() {
		t.Errorf("verified as %+v, %v", got, err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, KeyFile): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("the folder holds %v", entries)
	}
}

func TestOpenedTogetherIsOneKey(t *testing.T) {
	dir := t.TempDir()
	keys := make([]*Key, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() { keys[i], _ = Open(dir) })
	}
	wg.Wait()
	for _, k := range keys {
		if k == nil || !k.private.Equal(keys[0].private) {
			t.Fatal("two keys, or none")
		}
	}
}

// TestVerifyRefuses signs everything with the right key unless said otherwise.
func TestVerifyRefuses(t *testing.T) {
	k := open(t, t.TempDir())
	now := time.Now()
	sign := func(change func(*wire)) string {
		w := wire{RegisteredClaims: jwt.RegisteredClaims{
			Issuer: issuer, Subject: "system:serviceaccount:shop:web", Audience: jwt.ClaimStrings{audience},
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(time.Hour)),
		}}
		w.Kubernetes.Namespace, w.Kubernetes.Pod, w.Kubernetes.ServiceAccount.Name = "shop", reference{"web-1", "u1"}, "web"
		change(&w)
		s, err := jwt.NewWithClaims(jwt.SigningMethodES256, w).SignedString(k.private)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	good := sign(func(*wire) {})
	if _, err := k.Verify(context.Background(), good, audience); err != nil {
		t.Fatalf("the token that the others are made of: %v", err)
	}
	foreign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	foreignToken, err := (&Key{private: foreign, now: time.Now}).Mint(claims(), audience, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.RegisteredClaims{Issuer: issuer}).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	hs, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{Issuer: issuer}).SignedString([]byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ token, want string }{
		"another audience":         {sign(func(w *wire) { w.Audience = jwt.ClaimStrings{"api"} }), "audience"},
		"expired":                  {sign(func(w *wire) { w.ExpiresAt = jwt.NewNumericDate(now.Add(-time.Second)) }), "expired"},
		"no expiry":                {sign(func(w *wire) { w.ExpiresAt = nil }), "exp"},
		"not yet":                  {sign(func(w *wire) { w.NotBefore = jwt.NewNumericDate(now.Add(time.Minute)) }), "not valid yet"},
		"from the future":          {sign(func(w *wire) { w.IssuedAt = jwt.NewNumericDate(now.Add(time.Minute)) }), "before issued"},
		"no time of issue":         {sign(func(w *wire) { w.IssuedAt = nil }), "when it was issued"},
		"for too long":             {sign(func(w *wire) { w.ExpiresAt = jwt.NewNumericDate(now.Add(2 * time.Hour)) }), "more than 1h"},
		"another issuer":           {sign(func(w *wire) { w.Issuer = "x" }), "issuer"},
		"no pod":                   {sign(func(w *wire) { w.Kubernetes.Pod = reference{} }), "not bound to a pod"},
		"no uid":                   {sign(func(w *wire) { w.Kubernetes.Pod.UID = "" }), "not bound to a pod"},
		"a subject of another":     {sign(func(w *wire) { w.Subject = "system:serviceaccount:shop:admin" }), "subject"},
		"signed by another key":    {foreignToken, "signature"},
		"not signed":               {none, "signing method none"},
		"signed by another method": {hs, "signing method HS256"},
		"payload changed":          {good[:len(good)-100] + "A" + good[len(good)-99:], ""},
		"empty":                    {"", "malformed"},
		"no token":                 {"a.b.c", "malformed"},
		"absurdly long":            {strings.Repeat("a", 1<<20), "long"},
	} {
		_, err := k.Verify(context.Background(), tc.token, audience)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestMintRefuses(t *testing.T) {
	k := open(t, t.TempDir())
	for name, f := range map[string]func() (string, error){
		"no pod":      func() (string, error) { c := claims(); c.Pod = ""; return k.Mint(c, audience, time.Hour) },
		"no audience": func() (string, error) { return k.Mint(claims(), "", time.Hour) },
		"too long":    func() (string, error) { return k.Mint(claims(), audience, time.Hour+1) },
		"no lifetime": func() (string, error) { return k.Mint(claims(), audience, 0) },
	} {
		if tok, err := f(); err == nil {
			t.Errorf("%s: minted %s", name, tok)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, f := range map[string]func(path string) error{
		"readable by others": func(p string) error { return os.Chmod(p, 0o644) },
		"not PEM":            func(p string) error { return os.WriteFile(p, []byte("x"), 0o600) },
	} {
		dir := t.TempDir()
		open(t, dir)
		if err := f(filepath.Join(dir, KeyFile)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), KeyFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
