package inject_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/control/inject"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

type notes = map[string]string

// What somebody who comes from Linkerd has written means the same here, or is
// named.
func TestLinkerdAnnotations(t *testing.T) {
	for _, tc := range []struct {
		name    string
		pod, ns notes
		ignore  bool
		reason  inject.Reason
		want    notes // configuration on the pod afterwards
		told    []string
	}{
		{name: "asked for", pod: notes{"linkerd.io/inject": "enabled"}},
		{name: "asked for by the namespace", ns: notes{"linkerd.io/inject": "enabled"}},
		{name: "forbidden", pod: notes{"linkerd.io/inject": "disabled"}, ns: notes{"linkerd.io/inject": "enabled"}, reason: inject.DisablePresent},
		{name: "ours first", pod: notes{"linkerd.io/inject": "enabled", annotation.Inject: "disabled"}, reason: inject.DisablePresent},
		{name: "the pod's, by their name, before the namespace's by ours", pod: notes{"linkerd.io/inject": "disabled"}, ns: notes{annotation.Inject: "enabled"}, reason: inject.DisablePresent},
		{name: "malformed", pod: notes{"linkerd.io/inject": "yes"}, reason: inject.InvalidAtWorkload},
		{name: "ingress", pod: notes{"linkerd.io/inject": "ingress"}, told: []string{"annotation linkerd.io/inject, ignored: there is no ingress mode"}},
		{name: "while Linkerd's injector acts on them", pod: notes{"linkerd.io/inject": "enabled"}, ignore: true, reason: inject.EnableAbsent},
		{name: "configuration", pod: notes{
			annotation.Inject: "enabled", "config.linkerd.io/default-inbound-policy": "deny", "config.linkerd.io/opaque-ports": "1-3",
			"config.linkerd.io/proxy-log-level": "warn,linkerd=info", "viz.linkerd.io/disable-tap": "true", "config.linkerd.io/proxy-cpu-limit": "1",
		}, ns: notes{"config.linkerd.io/proxy-log-level": "off", "config.linkerd.io/shutdown-grace-period": "10s"}, want: notes{
			annotation.DefaultInboundPolicy: "deny", annotation.OpaquePorts: "1-3", annotation.ProxyLogLevel: "warn",
			annotation.DisableTap: "true", annotation.ProxyCPULimit: "1", annotation.ShutdownGracePeriod: "10s",
		}},
		{name: "the collector of traces", pod: notes{annotation.Inject: "enabled", "config.linkerd.io/trace-collector": "collector.jaeger:4317", "config.alpha.linkerd.io/trace-collector-service-account": "c"},
			want: notes{annotation.TraceCollector: "collector.jaeger:4317"},
			told: []string{"annotation config.alpha.linkerd.io/trace-collector-service-account, ignored: it has no meaning here"}},
		{name: "ours before theirs", pod: notes{annotation.Inject: "enabled", "config.linkerd.io/opaque-ports": "1", annotation.OpaquePorts: "2"}},
		{name: "theirs malformed", pod: notes{annotation.Inject: "enabled", "config.linkerd.io/default-inbound-policy": "none"}, reason: inject.InvalidAnnotation},
		{name: "what would make our sidecar theirs", pod: notes{annotation.Inject: "enabled", "config.linkerd.io/proxy-image": "x", "config.linkerd.io/proxy-uid": "1", "config.linkerd.io/inbound-port": "4143"}, told: []string{
			"annotation config.linkerd.io/inbound-port, ignored: it is about", "annotation config.linkerd.io/proxy-image, ignored: it is about", "annotation config.linkerd.io/proxy-uid, ignored: it is about",
		}},
		{name: "without a meaning", pod: notes{annotation.Inject: "enabled", "config.linkerd.io/skip-inbound-ports": "1"}, ns: notes{"config.alpha.linkerd.io/x": "1", "config.linkerd.io/admission-webhooks": "disabled"}, told: []string{
			"annotation config.linkerd.io/skip-inbound-ports, ignored: it has no meaning here", "the namespace's annotation config.alpha.linkerd.io/x, ignored: it has no meaning here",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := inject.Config{Version: "v1", OptIn: true, NamespaceAnnotations: tc.ns, IgnoreLinkerd: tc.ignore}
			before := map[string]string{}
			for k, v := range tc.pod {
				before[k] = v
			}
			spec := &corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}
			after, reason, err := inject.Pod(tc.pod, spec, c)
			if reason != tc.reason || (err != nil) != (reason == inject.InvalidAnnotation) {
				t.Fatalf("reason %q, %v; want %q", reason, err, tc.reason)
			}
			if d := cmp.Diff(before, tc.pod, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("what came in was written to: %s", d)
			}
			if told := inject.Notes(tc.pod, c); len(told) != len(tc.told) || !slices.EqualFunc(told, tc.told, strings.HasPrefix) {
				t.Errorf("told %q", told)
			}
			if reason != "" {
				return
			}
			for k, v := range tc.want {
				if after[k] != v || !slices.Contains(strings.Split(after[annotation.Inherited], ","), k) {
					t.Errorf("%s is %q, and inherited are %q", k, after[k], after[annotation.Inherited])
				}
			}
			back, ok := inject.Unpod(after, spec)
			if d := cmp.Diff(before, back, cmpopts.EquateEmpty()); !ok || d != "" {
				t.Errorf("taken out, it is not what it was: %s", d)
			}
		})
	}
}
