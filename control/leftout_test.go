package control

import (
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/control/catalog"
)

func TestAsked(t *testing.T) {
	not := func(values ...string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "kubernetes.io/metadata.name", Operator: metav1.LabelSelectorOpNotIn, Values: values},
		}}
	}
	hook := func(ns, pod *metav1.LabelSelector) admissionregistrationv1.MutatingWebhook {
		return admissionregistrationv1.MutatingWebhook{NamespaceSelector: ns, ObjectSelector: pod}
	}
	meshed := &metav1.LabelSelector{MatchLabels: map[string]string{"mesh": "yes"}}
	for _, tc := range []struct {
		name  string
		hooks []admissionregistrationv1.MutatingWebhook
		none  bool
		ns    string
		pod   map[string]string
		want  bool
	}{
		{"all", []admissionregistrationv1.MutatingWebhook{hook(nil, nil)}, false, "shop", nil, true},
		{"another namespace", []admissionregistrationv1.MutatingWebhook{hook(not("kube-system"), nil)}, false, "shop", nil, true},
		{"its namespace is left out", []admissionregistrationv1.MutatingWebhook{hook(not("kube-system"), nil)}, false, "kube-system", nil, false},
		{"its labels are not meant", []admissionregistrationv1.MutatingWebhook{hook(nil, meshed)}, false, "shop", nil, false},
		{"its labels are meant", []admissionregistrationv1.MutatingWebhook{hook(nil, meshed)}, false, "shop", map[string]string{"mesh": "yes"}, true},
		{"by the second", []admissionregistrationv1.MutatingWebhook{hook(not("shop"), nil), hook(not("kube-system"), nil)}, false, "shop", nil, true},
		{"no webhook", nil, false, "shop", nil, false},
		{"no configuration", nil, true, "shop", nil, false},
	} {
		var w *admissionregistrationv1.MutatingWebhookConfiguration
		if !tc.none {
			w = &admissionregistrationv1.MutatingWebhookConfiguration{Webhooks: tc.hooks}
		}
		a, err := askedOf(w)
		n := &catalog.Namespace{Name: tc.ns, Labels: map[string]string{"kubernetes.io/metadata.name": tc.ns}}
		if got := a.of(n, tc.pod); err != nil || got != tc.want {
			t.Errorf("%s: %v, %v", tc.name, got, err)
		}
	}
	if !(asked{}).of(&catalog.Namespace{}, nil) {
		t.Error("what nobody has read leaves somebody out")
	}
	bad := &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Near"}}}
	if a, err := askedOf(&admissionregistrationv1.MutatingWebhookConfiguration{Webhooks: []admissionregistrationv1.MutatingWebhook{hook(bad, nil)}}); err == nil || a.known {
		t.Errorf("%v, %v", a, err)
	}
}
