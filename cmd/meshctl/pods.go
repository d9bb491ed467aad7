package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/deploy/manifest"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// getWithin bounds a question to one pod.
const getWithin = 10 * time.Second

// fleet is a mesh as the pods that can be asked: a cluster's, or a local mesh's.
type fleet interface {
	// podsOf lists the running pods that TYPE/NAME, POD or "" (all of the namespace)
	// means; those of the namespace may be chosen by labels.
	podsOf(ctx context.Context, namespace, what, selector string) ([]corev1.Pod, error)
	// controllers are the replicas of the control plane.
	controllers(ctx context.Context) ([]corev1.Pod, error)
	// get asks a pod for a path of one of its ports.
	get(ctx context.Context, p *corev1.Pod, port, path string) ([]byte, error)
}

// fleet is that of the mesh which a command asks, with the namespace it means.
func (a *app) fleet(cmd *cobra.Command) (f fleet, namespace string, err error) {
	at, err := a.asked(cmd)
	if err != nil {
		return nil, "", err
	}
	if a.asksLocal(cmd) {
		f, err = a.localFleet()
	} else {
		f, err = a.cluster()
	}
	return f, at.namespace, err
}

// controllers implements fleet.
func (c *cluster) controllers(ctx context.Context) ([]corev1.Pod, error) {
	return c.listPods(ctx, manifest.Namespace, "app.kubernetes.io/name="+control.ServiceAccount)
}

// get implements fleet, by way of the API server, which asks whether whoever types
// this may (get of pods/proxy).
func (c *cluster) get(ctx context.Context, p *corev1.Pod, port, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, getWithin)
	defer cancel()
	out, err := c.kube.CoreV1().Pods(p.Namespace).ProxyGet("http", p.Name, port, path, nil).DoRaw(ctx)
	if err != nil {
		var why metav1.Status // which client-go does not read of what is not an object
		if json.Unmarshal(out, &why) == nil && why.Kind == "Status" && why.Message != "" {
			err = errors.New(why.Message)
		}
		return nil, fmt.Errorf("ask pod %s/%s for %s: %w", p.Namespace, p.Name, path, err)
	}
	return out, nil
}

// whose splits TYPE/NAME; a name alone is a pod's.
func whose(what string) (kind, name string, err error) {
	typed, name, ok := strings.Cut(what, "/")
	if !ok {
		return "pod", what, nil
	}
	if kind, ok = kindOf(typed); !ok {
		return "", "", usage("unknown resource type %q: want po, deploy, sts or ds", typed)
	}
	return kind, name, nil
}

// podsOf implements fleet.
func (c *cluster) podsOf(ctx context.Context, namespace, what, selector string) ([]corev1.Pod, error) {
	k, name, err := whose(what)
	if err != nil {
		return nil, err
	}
	apps, get := c.kube.AppsV1(), metav1.GetOptions{}
	var of *metav1.LabelSelector
	switch {
	case k == "pod" && name == "":
		return c.listPods(ctx, namespace, selector)
	case k == "pod":
		p, err := c.kube.CoreV1().Pods(namespace).Get(ctx, name, get)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", what, err)
		}
		return []corev1.Pod{*p}, nil
	case k == "deployment":
		d, e := apps.Deployments(namespace).Get(ctx, name, get)
		if err = e; e == nil {
			of = d.Spec.Selector
		}
	case k == "statefulset":
		s, e := apps.StatefulSets(namespace).Get(ctx, name, get)
		if err = e; e == nil {
			of = s.Spec.Selector
		}
	case k == "daemonset":
		d, e := apps.DaemonSets(namespace).Get(ctx, name, get)
		if err = e; e == nil {
			of = d.Spec.Selector
		}
	default:
		return nil, usage("%s: want po, deploy, sts or ds", what)
	}
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", what, err)
	}
	return c.listPods(ctx, namespace, metav1.FormatLabelSelector(of))
}

// listPods lists the running pods that a label selector means, by name.
func (c *cluster) listPods(ctx context.Context, namespace, selector string) ([]corev1.Pod, error) {
	list, err := c.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("list pods of %s: %w", namespace, err)
	}
	out := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.Status.Phase != corev1.PodRunning })
	slices.SortFunc(out, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// meshed are the pods that have a sidecar.
func meshed(all []corev1.Pod) []corev1.Pod {
	return slices.DeleteFunc(slices.Clone(all), func(p corev1.Pod) bool { return p.Annotations[annotation.Injected] == "" })
}
