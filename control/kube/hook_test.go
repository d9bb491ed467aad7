package kube_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tunmesh/tunmesh/control/kube"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestHookStore(t *testing.T) {
	client := fake.NewClientset(&admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "hook"},
		Webhooks:   []admissionregistrationv1.MutatingWebhook{{Name: "a"}, {Name: "b"}},
	})
	h, other := kube.NewHookStore(client, "tunmesh", "ca", "hook"), kube.NewHookStore(client, "tunmesh", "ca", "hook")
	data := func(s string) map[string][]byte { return map[string][]byte{"x": []byte(s)} }
	if err := h.SaveAuthority(t.Context(), data("1")); err != nil {
		t.Fatal(err)
	}
	if err := other.SaveAuthority(t.Context(), data("2")); err == nil {
		t.Error("made a second time")
	}
	if err := h.SaveAuthority(t.Context(), data("3")); err != nil {
		t.Error(err)
	}
	s, err := client.CoreV1().Secrets("tunmesh").Get(t.Context(), "ca", metav1.GetOptions{})
	if err != nil || string(s.Data["x"]) != "3" {
		t.Errorf("%v, %v", s, err)
	}
	// The replacement says what it replaces: the API server refuses one of an older.
	var sent string
	client.PrependReactor("update", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
		sent = a.(clienttesting.UpdateAction).GetObject().(*corev1.Secret).ResourceVersion
		return true, nil, errors.New("the object has been modified")
	})
	old := s.DeepCopy()
	old.ResourceVersion = "7"
	other.Saw(old)
	if err := other.SaveAuthority(t.Context(), data("4")); err == nil || sent != "7" {
		t.Errorf("replaced what was not seen: version %q, %v", sent, err)
	}
	if err := h.SaveBundle(t.Context(), []byte("bundle")); err != nil {
		t.Error(err)
	}
	c, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), "hook", metav1.GetOptions{})
	if err != nil || string(c.Webhooks[0].ClientConfig.CABundle) != "bundle" || string(c.Webhooks[1].ClientConfig.CABundle) != "bundle" {
		t.Errorf("%v, %v", c, err)
	}
	if err := kube.NewHookStore(client, "tunmesh", "ca", "none").SaveBundle(t.Context(), nil); err == nil {
		t.Error("put into what is not there")
	}
}

// TestFollow: one object's whole life, and no other's.
func TestFollow(t *testing.T) {
	secret := func(name, v string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "tunmesh", Name: name}, Data: map[string][]byte{"v": []byte(v)}}
	}
	client := fake.NewClientset(secret("other", "x"))
	opened := watches(client)
	var mu sync.Mutex
	var seen []string
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		kube.FollowSecret(ctx, client, "tunmesh", "issuer", discard(), func(s *corev1.Secret) {
			mu.Lock()
			defer mu.Unlock()
			if s == nil {
				seen = append(seen, "none")
				return
			}
			seen = append(seen, string(s.Data["v"]))
		})
	})
	defer running.Wait()
	defer stop()
	<-opened
	latest := func(n int, want string) {
		t.Helper()
		wait(t, want, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(seen) == n && seen[n-1] == want
		})
	}
	latest(1, "none")
	tracker := client.Tracker()
	if err := errors.Join(put(tracker, secret("issuer", "1")), put(tracker, secret("other", "y"))); err != nil {
		t.Fatal(err)
	}
	latest(2, "1")
	if err := put(tracker, secret("issuer", "2")); err != nil {
		t.Fatal(err)
	}
	latest(3, "2")
	if err := tracker.Delete(corev1.SchemeGroupVersion.WithResource("secrets"), "tunmesh", "issuer"); err != nil {
		t.Fatal(err)
	}
	latest(4, "none")
}

func TestEvents(t *testing.T) {
	client := fake.NewClientset()
	e := kube.NewEvents(client, "mesh-control", discard())
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = e.Run(ctx) })
	defer running.Wait()
	defer stop()
	about := corev1.ObjectReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Namespace: "shop", Name: "web", UID: "u"}
	e.Warn(about, "InjectionSkipped", "one")
	e.Warn(about, "InjectionSkipped", "one") // the same again
	e.Warn(about, "InjectionSkipped", "two")
	wait(t, "two events", func() bool { n, _ := e.Counts(); return n == 2 })
	list, err := client.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 || list.Items[0].InvolvedObject != about || list.Items[0].Type != "Warning" {
		t.Errorf("%+v, %v", list, err)
	}
	// Another replica says the same: there is one, that counts.
	second := kube.NewEvents(client, "mesh-control", discard())
	running.Go(func() { _ = second.Run(ctx) })
	second.Warn(about, "InjectionSkipped", "one")
	wait(t, "one more", func() bool { n, _ := second.Counts(); return n == 1 })
	list, err = client.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 || list.Items[0].Count+list.Items[1].Count != 3 {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestEventsNeverWait: with nobody to write them, events are counted and gone.
func TestEventsNeverWait(t *testing.T) {
	e := kube.NewEvents(fake.NewClientset(), "x", discard())
	for range 300 {
		e.Warn(corev1.ObjectReference{Kind: "Pod", Namespace: "a", Name: "b"}, "r", "m")
	}
	if _, dropped := e.Counts(); dropped != 300-256 {
		t.Errorf("%d dropped", dropped)
	}
}
