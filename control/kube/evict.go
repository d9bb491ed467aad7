package kube

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tunmesh/tunmesh/control/catalog"
)

// Why a pod was not evicted.
var (
	// ErrBudget: a PodDisruptionBudget does not let it go now.
	ErrBudget = errors.New("a PodDisruptionBudget does not let it go")
	// ErrGone: there is no pod of that name and UID any more.
	ErrGone = errors.New("it is gone")
)

// Evict evicts the pod of a name that has a UID, if its budgets let it go.
func Evict(ctx context.Context, c Client, k catalog.Key, uid string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	id := types.UID(uid)
	err := c.PolicyV1().Evictions(k.Namespace).Evict(ctx, &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: k.Namespace, Name: k.Name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &id}},
	})
	switch {
	case err == nil:
		return nil
	case apierrors.IsTooManyRequests(err):
		return fmt.Errorf("evict pod %s: %w: %w", k, ErrBudget, err)
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return fmt.Errorf("evict pod %s: %w: %w", k, ErrGone, err)
	}
	return fmt.Errorf("evict pod %s: %w", k, err)
}

// GetPod asks the API server for one pod, whole; nil when there is none.
func GetPod(ctx context.Context, c Client, k catalog.Key) (*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	p, err := c.CoreV1().Pods(k.Namespace).Get(ctx, k.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("get pod %s: %w", k, err)
	}
	return p, nil
}
