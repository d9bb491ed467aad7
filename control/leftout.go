package control

import (
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tunmesh/tunmesh/control/catalog"
)

// asked says of which pods the injector's webhook is asked when they are made, as its
// configuration stands. Immutable; the zero asked is that of one that nobody has
// read: then a pod may be one of them.
type asked struct {
	known bool
	hooks []selectors
}

// selectors are those of one webhook.
type selectors struct{ namespace, object labels.Selector }

// askedOf reads a configuration; nil is none, and then nobody is asked.
func askedOf(w *admissionregistrationv1.MutatingWebhookConfiguration) (asked, error) {
	a := asked{known: true}
	if w == nil {
		return a, nil
	}
	for _, h := range w.Webhooks {
		var s selectors
		var err error
		if s.namespace, err = selectorOf(h.NamespaceSelector); err == nil {
			s.object, err = selectorOf(h.ObjectSelector)
		}
		if err != nil {
			return asked{}, fmt.Errorf("read the selectors of webhook %s: %w", h.Name, err)
		}
		a.hooks = append(a.hooks, s)
	}
	return a, nil
}

// selectorOf takes an absent one for all, as the API server does.
func selectorOf(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}

// of says whether it is asked about a pod with these labels in a namespace.
func (a asked) of(n *catalog.Namespace, pod map[string]string) bool {
	if !a.known {
		return true
	}
	for _, s := range a.hooks {
		if s.namespace.Matches(labels.Set(n.Labels)) && s.object.Matches(labels.Set(pod)) {
			return true
		}
	}
	return false
}
