package faults

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	identityapi "github.com/tunmesh/tunmesh/api/identity"
	"github.com/tunmesh/tunmesh/internal/annotation"
	"github.com/tunmesh/tunmesh/test/cluster"
	"github.com/tunmesh/tunmesh/test/cluster/meshed"
)

// service dials the identity service of a replica.
func (m *mesh) service(ca authority) identityapi.IdentityClient {
	m.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.anchor)
	ip := m.Kubectl(m.t, "-n", "tunmesh", "get", "pods", "-l", "app.kubernetes.io/name=mesh-control", "-o", "jsonpath={.items[0].status.podIP}")
	conn, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(ip, "8086"),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return m.Dial(ctx, "tcp", addr) }),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			InsecureSkipVerify: true, //nolint:gosec // verified by hand: the name is a URI
			VerifyConnection: func(s tls.ConnectionState) error {
				chain := x509.NewCertPool()
				for _, c := range s.PeerCertificates[1:] {
					chain.AddCert(c)
				}
				_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: chain})
				return err
			},
		})))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = conn.Close() })
	return identityapi.NewIdentityClient(conn)
}

// certify asks for a certificate of an account.
func (m *mesh) certify(c identityapi.IdentityClient, token, account string) error {
	m.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		URIs: []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/" + ns + "/sa/" + account}},
	}, key)
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), limit)
	defer cancel()
	_, err = c.Certify(ctx, &identityapi.CertifyRequest{Csr: csr, Token: token})
	return err
}

// testTokens: tokens that the API server itself made, and what a replica says to
// whoever comes with them.
func (m *mesh) testTokens(ca authority) {
	m.apply(ns, meshed.Server("mine", "")+strings.ReplaceAll(meshed.Server("theirs", ""), "  terminationGrace", "  serviceAccountName: "+other+"\n  terminationGrace"))
	m.WaitFor(m.t, "condition=Ready", "-n", ns, "pod/mine", "pod/theirs")
	token := func(account, pod, audience string) string {
		args := []string{"-n", ns, "create", "token", account, "--audience=" + audience}
		if pod != "" {
			uid := m.Kubectl(m.t, "-n", ns, "get", "pod", pod, "-o", "jsonpath={.metadata.uid}")
			args = append(args, "--bound-object-kind=Pod", "--bound-object-name="+pod, "--bound-object-uid="+uid)
		}
		return m.Kubectl(m.t, args...)
	}
	const ours = annotation.TokenAudience
	mine, theirs := token("default", "mine", ours), token(other, "theirs", ours)
	c := m.service(ca)
	for _, try := range []struct {
		what, token, account string
		code                 codes.Code
		words                string
	}{
		{"its own", mine, "default", codes.OK, ""},
		{"its own, of another account", theirs, other, codes.OK, ""},
		{"of another pod", theirs, "default", codes.PermissionDenied, "names another identity"},
		{"naming somebody else", mine, other, codes.PermissionDenied, "names another identity"},
		{"another audience", token("default", "mine", "https://kubernetes.default.svc.cluster.local"), "default", codes.Unauthenticated, "it is for audience"},
		{"of no pod", token("default", "", ours), "default", codes.Unauthenticated, "it is not bound to a pod"},
		{"expired", m.expired(mine), "default", codes.Unauthenticated, "expired"},
		{"signed by nobody", mine[:strings.LastIndexByte(mine, '.')] + ".AAAA", "default", codes.Unauthenticated, "the API server"},
	} {
		err := m.certify(c, try.token, try.account)
		if status.Code(err) != try.code || err != nil && !strings.Contains(err.Error(), try.words) {
			m.t.Errorf("%s: %v, want %s, %q", try.what, err, try.code, try.words)
		}
	}
	// The API server takes the token of a deleted pod for good for some seconds more:
	// what refuses it is that the pod is known to be gone.
	m.Kubectl(m.t, "-n", ns, "delete", "pod", "theirs", "--force", "--grace-period=0")
	cluster.Eventually(m.t, limit, "the token of a deleted pod is refused", func(context.Context) error {
		err := m.certify(c, theirs, other)
		switch {
		case err == nil:
			return fmt.Errorf("certified")
		case status.Code(err) != codes.Unauthenticated:
			m.t.Errorf("%v", err)
		case !strings.Contains(err.Error(), "there is no pod"):
			m.t.Logf("refused by the API server alone: %v", err)
		}
		return nil
	})
	m.Kubectl(m.t, "-n", ns, "delete", "pod", "mine", "--wait=false")
}

// expired is a token as the API server made it, an hour and a day ago.
func (m *mesh) expired(token string) string {
	m.t.Helper()
	claims := jwt.MapClaims{}
	made, _, err := jwt.NewParser().ParseUnverified(token, claims)
	if err != nil {
		m.t.Fatal(err)
	}
	day := time.Now().Add(-25 * time.Hour)
	claims["iat"], claims["nbf"], claims["exp"] = day.Unix(), day.Unix(), day.Add(time.Hour).Unix()
	raw, err := os.ReadFile(filepath.Join(filepath.Dir(m.Kubeconfig()), "pki", "sa.key"))
	if err != nil {
		m.t.Fatal(err)
	}
	key, err := jwt.ParseRSAPrivateKeyFromPEM(raw)
	if err != nil {
		m.t.Fatal(err)
	}
	again := jwt.NewWithClaims(made.Method, claims)
	again.Header["kid"] = made.Header["kid"]
	out, err := again.SignedString(key)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}
