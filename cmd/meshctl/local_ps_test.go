//go:build linux

package main

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSelectPod(t *testing.T) {
	pod := func(namespace, name, kind, owner string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		if kind != "" {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: owner}}
		}
		return p
	}
	pods := []*corev1.Pod{
		pod("a", "db-0", "StatefulSet", "db"),
		pod("a", "web-1-x", "Deployment", "web"),
		pod("a", "web-1-y", "Deployment", "web"),
		pod("b", "db-0", "StatefulSet", "db"),
		pod("b", "one", "", ""),
	}
	for _, c := range []struct{ namespace, what, want string }{
		{"", "one", "b/one"},
		{"", "po/one", "b/one"},
		{"b", "db-0", "b/db-0"},
		{"", "db-0", "several namespaces"},
		{"", "deploy/web", "a/web-1-x"},
		{"a", "Deployment/web", "a/web-1-x"},
		{"a", "sts/db", "a/db-0"},
		{"", "sts/db", "several namespaces"},
		{"b", "deploy/web", "no pod deploy/web in namespace b"},
		{"", "ds/web", "no pod ds/web"},
		{"", "svc/web", "want a pod's name"},
		{"", "thing/web", "want a pod's name"},
		{"a", "one", "no pod one in namespace a"},
	} {
		got := ""
		if p, err := selectPod(pods, c.namespace, c.what); err != nil {
			got = err.Error()
		} else {
			got = p.Namespace + "/" + p.Name
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s in %q: %s, want %s", c.what, c.namespace, got, c.want)
		}
	}
}
