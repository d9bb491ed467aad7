package kube

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/object"
)

// LookUpPod asks the API server for one pod; nil when there is none.
func LookUpPod(ctx context.Context, c Client, k catalog.Key) (*catalog.Pod, error) {
	p, err := GetPod(ctx, c, k)
	if p == nil {
		return nil, err
	}
	pod, _ := object.Pod(p) // what is malformed in its annotations is said by the watch
	return pod, nil
}

// LookUpNamespace asks the API server for one namespace; nil when there is none.
func LookUpNamespace(ctx context.Context, c Client, name string) (*catalog.Namespace, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	n, err := c.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("get namespace %s: %w", name, err)
	}
	ns, _ := object.Namespace(n)
	return ns, nil
}
