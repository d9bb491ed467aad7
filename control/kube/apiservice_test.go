package kube

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// clientOf returns a client of an API server that is f.
func clientOf(t *testing.T, f http.HandlerFunc) Client {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"c","cluster":{"server":%q}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],"users":[{"name":"u","user":{}}]}`, s.URL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(path, "test")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAPIService(t *testing.T) {
	const path = "/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.view.tunmesh.io"
	bundle, there, fail := "", false, false
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Path != path:
			t.Errorf("asked for %s", r.URL.Path)
		case fail:
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no right","reason":"Forbidden","code":403}`)
			return
		case !there:
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
			return
		case r.Method == http.MethodPatch:
			raw, _ := io.ReadAll(r.Body)
			var p struct{ Spec map[string]string }
			if err := json.Unmarshal(raw, &p); err != nil || len(p.Spec) != 1 || r.Header.Get("Content-Type") != "application/merge-patch+json" {
				t.Errorf("patch %s %v as %s", raw, err, r.Header.Get("Content-Type"))
			}
			plain, err := base64.StdEncoding.DecodeString(p.Spec["caBundle"])
			if err != nil {
				t.Error(err)
			}
			bundle = string(plain)
		}
		_, _ = fmt.Fprintf(w, `{"kind":"APIService","spec":{"caBundle":%q,"group":"view.tunmesh.io"}}`, base64.StdEncoding.EncodeToString([]byte(bundle)))
	})
	a := NewAPIService(c, "v1alpha1.view.tunmesh.io")
	if b, ok, err := a.Bundle(t.Context()); err != nil || ok || b != nil {
		t.Errorf("none: %q %v %v", b, ok, err)
	}
	there = true
	if b, ok, err := a.Bundle(t.Context()); err != nil || !ok || len(b) != 0 {
		t.Errorf("without a bundle: %q %v %v", b, ok, err)
	}
	if err := a.SaveBundle(t.Context(), []byte("PEM")); err != nil {
		t.Fatal(err)
	}
	if b, ok, err := a.Bundle(t.Context()); err != nil || !ok || string(b) != "PEM" {
		t.Errorf("with one: %q %v %v", b, ok, err)
	}
	fail = true
	if _, _, err := a.Bundle(t.Context()); err == nil || !strings.Contains(err.Error(), "get APIService v1alpha1.view.tunmesh.io") {
		t.Errorf("%v", err)
	}
	if err := a.SaveBundle(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "no right") {
		t.Errorf("%v", err)
	}
}
