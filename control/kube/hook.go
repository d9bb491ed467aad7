package kube

import (
	"context"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// HookStore keeps the webhook's authority in a Secret and has the API server
// believe it. It has the shape of the admission keeper's Store.
type HookStore struct {
	client            Client
	namespace, secret string
	configuration     string
	mu                sync.Mutex
	seen              *corev1.Secret
}

// NewHookStore returns one for a Secret and a MutatingWebhookConfiguration.
func NewHookStore(c Client, namespace, secret, configuration string) *HookStore {
	return &HookStore{client: c, namespace: namespace, secret: secret, configuration: configuration}
}

// Saw says which Secret the next save is to replace; nil: there is none.
func (h *HookStore) Saw(s *corev1.Secret) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = s
}

// SaveAuthority makes the Secret, or replaces the one that was seen last. It
// fails when somebody else was quicker.
func (h *HookStore) SaveAuthority(ctx context.Context, data map[string][]byte) error {
	h.mu.Lock()
	seen := h.seen
	h.mu.Unlock()
	secrets := h.client.CoreV1().Secrets(h.namespace)
	if seen == nil {
		s, err := secrets.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: h.secret, Namespace: h.namespace}, Type: corev1.SecretTypeOpaque, Data: data,
		}, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("create Secret %s/%s: %w", h.namespace, h.secret, err)
		}
		h.Saw(s)
		return nil
	}
	s := seen.DeepCopy()
	s.Data = data
	s, err := secrets.Update(ctx, s, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("update Secret %s/%s: %w", h.namespace, h.secret, err)
	}
	h.Saw(s)
	return nil
}

// SaveBundle puts a bundle into each webhook of the configuration.
func (h *HookStore) SaveBundle(ctx context.Context, bundle []byte) error {
	hooks := h.client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	c, err := hooks.Get(ctx, h.configuration, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get MutatingWebhookConfiguration %s: %w", h.configuration, err)
	}
	if len(c.Webhooks) == 0 {
		return errors.New("MutatingWebhookConfiguration " + h.configuration + " has no webhook: install it again")
	}
	for i := range c.Webhooks {
		c.Webhooks[i].ClientConfig.CABundle = bundle
	}
	if _, err := hooks.Update(ctx, c, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update MutatingWebhookConfiguration %s: %w", h.configuration, err)
	}
	return nil
}
