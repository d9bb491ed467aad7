package discover

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// maxToken bounds a token's file, in bytes.
const maxToken = 64 << 10

// readToken reads the projected token anew: it is rotated in place.
func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read the identity token: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", fmt.Errorf("read the identity token: %w", err)
	}
	t := strings.TrimSpace(string(b))
	if t == "" || len(b) > maxToken {
		return "", fmt.Errorf("read the identity token %s: %d bytes, want 1 to %d", path, len(b), maxToken)
	}
	return t, nil
}

// subject says which identity a token is about, so that the request can name
// it. Nothing is verified here: the control plane does that, and signs no other.
func subject(token, trustDomain string) (spiffe.ID, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return spiffe.ID{}, errors.New("identity token: not a JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return spiffe.ID{}, fmt.Errorf("identity token: %w", err)
	}
	var claims struct {
		Sub string `json:"sub"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return spiffe.ID{}, fmt.Errorf("identity token: %w", err)
	}
	p := strings.Split(claims.Sub, ":")
	if len(p) != 4 || p[0] != "system" || p[1] != "serviceaccount" {
		return spiffe.ID{}, fmt.Errorf("identity token: its subject %q is no service account", claims.Sub)
	}
	id, err := spiffe.Parse(spiffe.ID{TrustDomain: trustDomain, Namespace: p[2], ServiceAccount: p[3]}.String())
	if err != nil {
		return spiffe.ID{}, fmt.Errorf("identity token: %w", err)
	}
	return id, nil
}
