package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tunmesh/tunmesh/cni/unary"
)

// Times of the questions for the trust anchors. In a rotation the control plane
// shows a certificate of the new anchor when the old one goes: two waits for all
// sidecars after its first word of the new one. Agents have to have heard by then.
const (
	anchorsAgain  = 3 * time.Second
	anchorsWithin = 4 * time.Second
)

// trustMethod is the call of api/identity that needs no client certificate.
const trustMethod = "/tunmesh.identity.v1.Identity/Trust"

// somebody stands for the control plane in a URL: nobody looks it up.
const somebody = "control-plane"

// anchors are what sidecars begin with. The file is a mounted ConfigMap, as old as
// the kubelet's last look, which is a minute and more; so the control plane is
// asked, too, and believed if the anchors of the moment verify it. Its word is in
// force until the file becomes another: then that is the newer one.
type anchors struct {
	file     string
	identity string // of the control plane
	control  func() ([]netip.AddrPort, error)
	told     atomic.Pointer[toldAnchors]
	client   *http.Client
	believed string // what the client's connection was verified with; run's
}

// toldAnchors are what the control plane said.
type toldAnchors struct {
	pem  string
	file string // the file as it was then
}

func newAnchors(file, identity string, control func() ([]netip.AddrPort, error)) *anchors {
	a := &anchors{file: file, identity: identity, control: control}
	var http2 http.Protocols
	http2.SetHTTP2(true)
	a.client = &http.Client{Transport: &http.Transport{
		Protocols: &http2, DialContext: a.dial,
		TLSClientConfig: &tls.Config{
			MinVersion:         tls.VersionTLS13,
			InsecureSkipVerify: true, //nolint:gosec // verified by hand: the name is a URI
			VerifyConnection:   a.verify,
		},
	}}
	return a
}

// pem are the trust anchors to begin with, now.
func (a *anchors) pem() (string, error) {
	now, _, err := a.read()
	return now, err
}

func (a *anchors) read() (now, file string, err error) {
	raw, err := os.ReadFile(a.file)
	if err != nil {
		return "", "", fmt.Errorf("read the trust anchors, which the control plane puts there: %w", err)
	}
	file = string(raw)
	if t := a.told.Load(); t != nil && t.file == file {
		return t.pem, file, nil
	}
	return file, file, nil
}

// run asks until ctx ends.
func (a *anchors) run(ctx context.Context, log *slog.Logger) {
	defer a.client.CloseIdleConnections()
	said := ""
	for {
		changed, err := a.ask(ctx)
		if ctx.Err() != nil {
			return
		}
		text := ""
		if err != nil {
			text = err.Error()
		}
		switch {
		case changed:
			log.Info("the control plane has other trust anchors than the file: sidecars that start get those")
		case text != "" && text != said:
			log.Warn("ask the control plane for the trust anchors; sidecars that start get those of the file", "error", err)
		}
		said = text
		select {
		case <-ctx.Done():
			return
		case <-time.After(anchorsAgain/2 + rand.N(anchorsAgain)): //nolint:gosec // not a secret
		}
	}
}

// ask asks once; changed says that there are others now.
func (a *anchors) ask(ctx context.Context) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, anchorsWithin)
	defer cancel()
	now, file, err := a.read()
	if err != nil {
		return false, err
	}
	if now != a.believed { // who was believed before may not be now
		a.client.CloseIdleConnections()
		a.believed = now
	}
	answer, broken, err := unary.Call(ctx, a.client, "https://"+somebody+trustMethod, nil)
	if broken {
		a.client.CloseIdleConnections()
	}
	if err != nil {
		return false, fmt.Errorf("ask for the trust anchors: %w", err)
	}
	bundle, err := bundleOf(answer)
	if err != nil {
		return false, fmt.Errorf("ask for the trust anchors: %w", err)
	}
	if sameCertificates(bundle, now) {
		return false, nil
	}
	a.told.Store(&toldAnchors{pem: bundle, file: file})
	return true, nil
}

// dial connects to the first address that answers.
func (a *anchors) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	at, err := a.control()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, addr := range at {
		conn, err := (&net.Dialer{Timeout: anchorsWithin / 2}).DialContext(ctx, network, addr.String())
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// verify makes sure that it is the control plane.
func (a *anchors) verify(s tls.ConnectionState) error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(a.believed)) {
		return errors.New("there is no trust anchor to verify the control plane with")
	}
	chain := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		chain.AddCert(c)
	}
	leaf := s.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: chain}); err != nil {
		return fmt.Errorf("verify the control plane: %w", err)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != a.identity {
		return fmt.Errorf("verify the control plane: it is %v, want %s", leaf.URIs, a.identity)
	}
	return nil
}

// bundleOf is an answer, tunmesh.identity.v1.TrustBundle, as PEM.
func bundleOf(answer unary.Message) (string, error) {
	var out strings.Builder
	err := answer.Each(func(n uint64, v unary.Value) error {
		if n != 1 {
			return nil
		}
		c, err := x509.ParseCertificate(v.Bytes)
		if err != nil {
			return err
		}
		if !c.IsCA {
			return fmt.Errorf("%q is not a CA's certificate", c.Subject)
		}
		return pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	})
	if err == nil && out.Len() == 0 {
		err = errors.New("there are none")
	}
	if err != nil {
		return "", fmt.Errorf("decode the answer: %w", err)
	}
	return out.String(), nil
}

// sameCertificates compares two bundles, whatever stands between certificates.
func sameCertificates(a, b string) bool {
	set := func(text string) map[string]bool {
		out := map[string]bool{}
		for rest := []byte(text); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				return out
			}
			out[string(block.Bytes)] = true
		}
	}
	x, y := set(a), set(b)
	for der := range y {
		if !x[der] {
			return false
		}
	}
	return len(x) == len(y)
}
