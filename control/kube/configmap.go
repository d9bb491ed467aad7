package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PutConfigMap makes a ConfigMap, or replaces the data of the one that was seen
// last; nil: there was none. It returns the one that is there now, and fails when
// somebody else was quicker.
func PutConfigMap(ctx context.Context, c Client, seen *corev1.ConfigMap, namespace, name string, data map[string]string) (*corev1.ConfigMap, error) {
	maps := c.CoreV1().ConfigMaps(namespace)
	if seen == nil {
		m, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: data}, metav1.CreateOptions{})
		if err != nil {
			return nil, fmt.Errorf("create ConfigMap %s/%s: %w", namespace, name, err)
		}
		return m, nil
	}
	m := seen.DeepCopy()
	m.Data = data
	m, err := maps.Update(ctx, m, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("update ConfigMap %s/%s: %w", namespace, name, err)
	}
	return m, nil
}
