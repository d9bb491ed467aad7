//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/ctl"
	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/deploy/manifest"
)

// maxAnswer bounds what a pod may say: a sidecar's metrics are a fraction of it.
const maxAnswer = 64 << 20

// localFleet is the pods of the local mesh that the flags name.
func (a *app) localFleet() (fleet, error) {
	c, err := a.client()
	if err != nil {
		return nil, err
	}
	if !c.Dir.Held() {
		return nil, fmt.Errorf("the local mesh %q %w: start it with meshctl local up", c.Dir.Name(), ctl.ErrDown)
	}
	return localFleet{c}, nil
}

// localFleet asks pods over connections to their own loopback.
type localFleet struct{ ctl.Client }

// podsOf implements fleet.
func (f localFleet) podsOf(_ context.Context, namespace, what, selector string) ([]corev1.Pod, error) {
	k, name, err := whose(what)
	if err != nil {
		return nil, err
	}
	if !slices.Contains([]string{"pod", "deployment", "statefulset", "daemonset"}, k) {
		return nil, usage("%s: want po, deploy, sts or ds", what)
	}
	chosen, err := labels.Parse(selector)
	if err != nil {
		return nil, usage("label selector %q: %w", selector, err)
	}
	all, err := readPods(f.Dir)
	if err != nil {
		return nil, err
	}
	var out []corev1.Pod
	for _, p := range all {
		if p.Namespace == namespace && p.Status.Phase == corev1.PodRunning && chosen.Matches(labels.Set(p.Labels)) && meant(p, k, name) {
			out = append(out, *p)
		}
	}
	if len(out) == 0 && name != "" {
		return nil, fmt.Errorf("find %s: no pod of that name runs in namespace %s", what, namespace)
	}
	return out, nil
}

// meant reports whether a pod is the one of a name, any with none, or a workload's.
func meant(p *corev1.Pod, kind, name string) bool {
	if kind == "pod" {
		return name == "" || p.Name == name
	}
	return slices.ContainsFunc(p.OwnerReferences, func(o metav1.OwnerReference) bool {
		return strings.EqualFold(o.Kind, kind) && o.Name == name
	})
}

// controllers implements fleet: the control plane of a local mesh is one process
// outside of all pods.
func (localFleet) controllers(context.Context) ([]corev1.Pod, error) {
	return []corev1.Pod{{
		ObjectMeta: metav1.ObjectMeta{Namespace: manifest.Namespace, Name: control.ServiceAccount},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: control.ServiceAccount}}},
	}}, nil
}

// get implements fleet.
func (f localFleet) get(ctx context.Context, p *corev1.Pod, port, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, getWithin)
	defer cancel()
	text, err := f.ask(ctx, p, port, path)
	if err != nil {
		return nil, fmt.Errorf("ask pod %s/%s for %s: %w", p.Namespace, p.Name, path, err)
	}
	return text, nil
}

func (f localFleet) ask(ctx context.Context, p *corev1.Pod, port, path string) ([]byte, error) {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	to := ctl.Dial{Namespace: p.Namespace, Pod: p.Name, Port: uint16(n)}
	if p.Namespace == manifest.Namespace && p.Name == control.ServiceAccount {
		to = ctl.Dial{Port: uint16(n)}
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			file, err := f.Dial(ctx, to)
			if err != nil {
				return nil, err
			}
			return fileConn(file)
		},
	}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+port+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
	return text, err
}
