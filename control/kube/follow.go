package kube

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// FollowSecret calls f with a Secret as it is, whenever it changes; nil where
// there is none. It needs no right to read others. f is called by one goroutine,
// from within FollowSecret, which returns when ctx ends.
func FollowSecret(ctx context.Context, c Client, namespace, name string, log *slog.Logger, f func(*corev1.Secret)) {
	follow(ctx, c, c.CoreV1().Secrets(namespace), &corev1.Secret{}, name, log, f)
}

// FollowConfigMap does for a ConfigMap what FollowSecret does for a Secret.
func FollowConfigMap(ctx context.Context, c Client, namespace, name string, log *slog.Logger, f func(*corev1.ConfigMap)) {
	follow(ctx, c, c.CoreV1().ConfigMaps(namespace), &corev1.ConfigMap{}, name, log, f)
}

// FollowWebhook does for a MutatingWebhookConfiguration what FollowSecret does
// for a Secret.
func FollowWebhook(ctx context.Context, c Client, name string, log *slog.Logger, f func(*admissionregistrationv1.MutatingWebhookConfiguration)) {
	follow(ctx, c, c.AdmissionregistrationV1().MutatingWebhookConfigurations(), &admissionregistrationv1.MutatingWebhookConfiguration{}, name, log, f)
}

// single is what a reflector tells of one object.
type single[T any] struct {
	name string
	f    func(*T)
}

func follow[L runtime.Object, T any](ctx context.Context, c Client, client lister[L], example *T, name string, log *slog.Logger, f func(*T)) {
	only := fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	what := fmt.Sprintf("%T %s", example, name)
	var failing atomic.Bool
	note := func(err error) {
		switch {
		case err != nil && ctx.Err() == nil && failing.CompareAndSwap(false, true):
			log.Error("not followed, the last state stays", "what", what, "err", short(err))
		case err == nil && failing.CompareAndSwap(true, false):
			log.Info("followed again", "what", what)
		}
	}
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = only
			list, err := client.List(ctx, o)
			note(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = only
			w, err := client.Watch(ctx, o)
			note(err)
			return w, err
		},
	}, c)
	runReflector(ctx, what, lw, example, &single[T]{name: name, f: f})
}

// ours reports whether an object is the one.
func (s *single[T]) ours(o any) bool {
	m, err := meta.Accessor(o)
	return err == nil && m.GetName() == s.name
}

// Add implements cache.ReflectorStore.
func (s *single[T]) Add(o any) error { return s.Update(o) }

// Update implements cache.ReflectorStore.
func (s *single[T]) Update(o any) error {
	if t, ok := o.(*T); ok && s.ours(o) {
		s.f(t)
	}
	return nil
}

// Delete implements cache.ReflectorStore.
func (s *single[T]) Delete(o any) error {
	if s.ours(o) {
		s.f(nil)
	}
	return nil
}

// Replace implements cache.ReflectorStore.
func (s *single[T]) Replace(list []any, _ string) error {
	for _, o := range list {
		if s.ours(o) {
			return s.Update(o)
		}
	}
	s.f(nil)
	return nil
}

// Resync implements cache.ReflectorStore.
func (s *single[T]) Resync() error { return nil }
