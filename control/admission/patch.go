package admission

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// operation is one of a JSON patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// patch says how to get from a pod to its annotations and spec after injection,
// which adds containers, volumes and annotations and touches nothing else.
func patch(before *corev1.Pod, annotations map[string]string, after *corev1.PodSpec) ([]byte, error) {
	ops := annotate(before.Annotations, annotations)
	ops = append(ops, insert("/spec/initContainers", before.Spec.InitContainers, after.InitContainers, func(c corev1.Container) string { return c.Name })...)
	ops = append(ops, insert("/spec/containers", before.Spec.Containers, after.Containers, func(c corev1.Container) string { return c.Name })...)
	ops = append(ops, insert("/spec/volumes", before.Spec.Volumes, after.Volumes, func(v corev1.Volume) string { return v.Name })...)
	return json.Marshal(ops)
}

func annotate(before, after map[string]string) []operation {
	var ops []operation
	if before == nil && len(after) > 0 {
		ops = append(ops, operation{Op: "add", Path: "/metadata/annotations", Value: map[string]string{}})
	}
	for _, k := range slices.Sorted(maps.Keys(after)) {
		if v, ok := before[k]; !ok || v != after[k] {
			ops = append(ops, operation{Op: "add", Path: "/metadata/annotations/" + escape(k), Value: after[k]})
		}
	}
	for _, k := range slices.Sorted(maps.Keys(before)) {
		if _, ok := after[k]; !ok {
			ops = append(ops, operation{Op: "remove", Path: "/metadata/annotations/" + escape(k)})
		}
	}
	return ops
}

// insert adds the elements of a list that are new, each at its place.
func insert[T any](path string, before, after []T, name func(T) string) []operation {
	had := map[string]bool{}
	for _, e := range before {
		had[name(e)] = true
	}
	var ops []operation
	for i, e := range after {
		if had[name(e)] {
			continue
		}
		if len(before) == 0 && len(ops) == 0 {
			ops = append(ops, operation{Op: "add", Path: path, Value: []T{e}})
			continue
		}
		ops = append(ops, operation{Op: "add", Path: path + "/" + strconv.Itoa(i), Value: e})
	}
	return ops
}

// escape writes a key as a part of a JSON pointer (RFC 6901).
func escape(key string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(key) }
