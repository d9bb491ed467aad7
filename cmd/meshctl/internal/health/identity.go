package health

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/control/identity"
	"github.com/tunmesh/tunmesh/deploy/manifest"
)

// linkerdWebhook is there where Linkerd's own injector is.
const linkerdWebhook = "linkerd-proxy-injector-webhook-config"

// webhookSoon is how early the end of the webhook's own authority is worth a
// warning: it is replaced four months before.
const webhookSoon = 60 * 24 * time.Hour

// certificates reads all certificates of a PEM.
func certificates(text []byte) (out []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return out, nil
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
}

// sameAnchors is same of two PEMs.
func sameAnchors(want, have string, now time.Time) bool {
	all, err1 := certificates([]byte(want))
	some, err2 := certificates([]byte(have))
	return err1 == nil && err2 == nil && same(all, some, now)
}

// same reports whether those who believe have are in step with want: they have all
// of it but for what has expired, and nothing else.
func same(want, have []*x509.Certificate, now time.Time) bool {
	for _, c := range want {
		if now.Before(c.NotAfter) && !slices.ContainsFunc(have, c.Equal) {
			return false
		}
	}
	return len(have) > 0 && !slices.ContainsFunc(have, func(c *x509.Certificate) bool { return !slices.ContainsFunc(want, c.Equal) })
}

// identity checks the trust anchors and the issuer.
func (r *run) identity(ctx context.Context) {
	r.category("tunmesh-identity")
	var (
		anchors, cert, key []byte
		roots, chain       []*x509.Certificate
	)
	broken := false
	r.check(fails, "certificate config is valid", "certificates", func() error {
		err := func() error {
			m, err := r.Kube.CoreV1().ConfigMaps(manifest.Namespace).Get(ctx, control.AnchorsConfigMap, metav1.GetOptions{})
			if err != nil {
				return err
			}
			s, err := r.Kube.CoreV1().Secrets(manifest.Namespace).Get(ctx, control.IssuerSecret, metav1.GetOptions{})
			if err != nil {
				return err
			}
			anchors, cert, key = []byte(m.Data[control.AnchorsKey]), s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]
			if own := s.Data[control.IssuerKey]; len(own) > 0 {
				cert, key = own, own
			}
			if roots, err = certificates(anchors); err != nil {
				return fmt.Errorf("trust anchors: %w", err)
			}
			if chain, err = certificates(cert); err != nil {
				return fmt.Errorf("issuer: %w", err)
			}
			if len(roots) == 0 || len(chain) == 0 {
				return errors.New("there is no trust anchor, or no issuer")
			}
			return nil
		}()
		broken = err != nil
		return err
	})
	if broken {
		return
	}
	r.seen.issuer, r.seen.anchors = chain[0], roots
	now := r.Now()
	r.check(fails, "trust anchors are within their validity period", "certificates", func() error {
		if slices.ContainsFunc(roots, func(c *x509.Certificate) bool { return within(c, now) == nil }) {
			return nil // an old one may stay beside it
		}
		return within(roots[0], now)
	})
	r.check(warns, "trust anchors are valid for at least 60 days", "expiry", func() error {
		var last time.Time
		for _, c := range roots {
			if c.NotAfter.After(last) {
				last = c.NotAfter
			}
		}
		return left("the last of them", last, now, soon)
	})
	r.check(fails, "issuer cert is within its validity period", "certificates", func() error { return within(chain[0], now) })
	r.check(warns, "issuer cert is valid for at least 60 days", "expiry", func() error { return left("it", chain[0].NotAfter, now, soon) })
	r.check(fails, "issuer cert is issued by the trust anchor", "certificates", func() error {
		if within(chain[0], now) != nil {
			return nil // said above
		}
		_, err := identity.NewAuthority(anchors, cert, key, now)
		return err
	})
}

func within(c *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(c.NotBefore):
		return fmt.Errorf("%s does not hold before %s", c.Subject, c.NotBefore.UTC().Format(time.RFC3339))
	case !now.Before(c.NotAfter):
		return fmt.Errorf("%s has expired on %s", c.Subject, c.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

func left(what string, until, now time.Time, enough time.Duration) error {
	if d := until.Sub(now); d > 0 && d < enough {
		return fmt.Errorf("%s expires on %s, in %d days", what, until.UTC().Format(time.RFC3339), int(d.Hours()/24))
	}
	return nil
}

// webhook checks that the API server can ask the injector.
func (r *run) webhook(ctx context.Context) {
	r.category("tunmesh-webhook")
	w := r.seen.webhook
	if w != nil {
		var bundle []*x509.Certificate
		r.check(waits, "injector webhook has a certificate that the API server believes", "webhook", func() error {
			s, err := r.Kube.CoreV1().Secrets(manifest.Namespace).Get(ctx, control.WebhookSecret, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return errors.New("the control plane has not made it yet")
			}
			if err != nil {
				return err
			}
			for _, h := range w.Webhooks {
				if len(h.ClientConfig.CABundle) == 0 || !bytes.Equal(bytes.TrimSpace(h.ClientConfig.CABundle), bytes.TrimSpace(s.Data["ca.crt"])) {
					return fmt.Errorf("%s of MutatingWebhookConfiguration %s has not the authority in Secret %s", h.Name, w.Name, control.WebhookSecret)
				}
			}
			if bundle, err = certificates(s.Data["ca.crt"]); err != nil {
				return err
			}
			if len(bundle) == 0 {
				return errors.New("there is no certificate in it")
			}
			return within(bundle[0], r.Now())
		})
		r.check(warns, "injector webhook's authority is valid for at least 60 days", "webhook", func() error {
			if len(bundle) == 0 {
				return nil // said above
			}
			return left("it", bundle[0].NotAfter, r.Now(), webhookSoon)
		})
	}
	r.check(warns, "Linkerd's injector is not in this cluster", "linkerd", func() error {
		_, err := r.Kube.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, linkerdWebhook, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return err
		}
		return errors.New("it is: linkerd.io annotations are its own, and count for nothing here")
	})
}
