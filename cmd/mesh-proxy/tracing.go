package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/tunmesh/tunmesh/internal/annotation"
	"github.com/tunmesh/tunmesh/internal/handover"
	"github.com/tunmesh/tunmesh/internal/version"
	"github.com/tunmesh/tunmesh/tunproxy/tracing"
)

// tracerOf makes the tracer that the pod's annotations ask for; nil: none. labels
// are the pod's, as the control plane tells.
func tracerOf(m *handover.Message, labels func() map[string]string, log *slog.Logger) (*tracing.Tracer, error) {
	collector, ratio, err := tracingOf(m)
	if err != nil || collector == "" {
		return nil, err
	}
	return tracing.New(tracing.Config{
		Ratio: ratio, Authority: collector, Version: version.String(), Logger: log,
		// By the kernel, and so through this sidecar, as the app would: the collector
		// is found by the pod's DNS, chosen by the balancer, and spoken to by mTLS where
		// it is meshed.
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", collector)
		},
		Resource: func() []tracing.Attribute { return resourceOf(m, labels()) },
	}), nil
}

// tracingOf reads the annotations.
func tracingOf(m *handover.Message) (collector string, ratio float64, err error) {
	s, ok := m.Annotations[annotation.TraceCollector]
	if !ok {
		return "", 0, nil
	}
	if collector, err = annotation.ParseCollector(s); err != nil {
		return "", 0, fmt.Errorf("annotation %s: %w", annotation.TraceCollector, err)
	}
	ratio = tracing.DefaultRatio
	if s, ok = m.Annotations[annotation.TraceSampling]; ok {
		if ratio, err = annotation.ParseSampling(s); err != nil {
			return "", 0, fmt.Errorf("annotation %s: %w", annotation.TraceSampling, err)
		}
	}
	return collector, ratio, nil
}

// resourceOf describes the pod by the conventions' names; its annotations have the
// last word. A service is called what its workload is.
func resourceOf(m *handover.Message, labels map[string]string) []tracing.Attribute {
	all := map[string]string{
		"service.name": m.Pod.Name, "service.namespace": m.Pod.Namespace, "service.instance.id": m.Pod.Namespace + "." + m.Pod.Name,
		"k8s.namespace.name": m.Pod.Namespace, "k8s.pod.name": m.Pod.Name,
	}
	if m.Pod.UID != "" {
		all["k8s.pod.uid"] = m.Pod.UID
	}
	if m.Node != "" {
		all["k8s.node.name"] = m.Node
	}
	for _, kind := range []string{"job", "cronjob", "daemonset", "statefulset", "replicaset", "deployment"} {
		if name := labels[kind]; name != "" {
			all["k8s."+kind+".name"], all["service.name"] = name, name
		}
	}
	for k, v := range m.Annotations {
		if name, ok := strings.CutPrefix(k, annotation.ResourcePrefix); ok {
			all[name] = v
		}
	}
	out := make([]tracing.Attribute, 0, len(all))
	for _, k := range slices.Sorted(maps.Keys(all)) {
		out = append(out, tracing.Attribute{Key: k, Value: all[k]})
	}
	return out
}
