package manifest_test

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/tunmesh/tunmesh/deploy/manifest"
)

// Every port of every container of ours is one of the table's, with the Service that
// leads to it and the ServiceAccount of its process, and the other way round.
func TestPortsAreTheTable(t *testing.T) {
	all := render(t, certificates())
	got := ports(t, all)
	var want []string
	for _, row := range table(t, "process") {
		if row[0] == "`mesh-proxy`" { // the chart renders none
			continue
		}
		want = append(want, fmt.Sprintf("%s %s %s %s", row[0], row[1], row[2], row[3]))
	}
	if len(want) < 6 {
		t.Fatalf("%s: only %d ports found", page, len(want))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the chart has\n%q, the table\n%q", got, want)
	}
}

func ports(t *testing.T, all manifest.Objects) (out []string) {
	t.Helper()
	for _, o := range slices.Concat(kind(all, "Deployment"), kind(all, "DaemonSet")) {
		var pod struct {
			Spec struct {
				Template corev1.PodTemplateSpec `json:"template"`
			} `json:"spec"`
		}
		convert(t, o, &pod)
		spec := pod.Spec.Template.Spec
		for _, c := range spec.Containers {
			for _, p := range c.Ports {
				service := ""
				for _, s := range kind(all, "Service") {
					var svc corev1.Service
					convert(t, s, &svc)
					if svc.Namespace != o.GetNamespace() || svc.Spec.Selector["app.kubernetes.io/name"] != pod.Spec.Template.Labels["app.kubernetes.io/name"] {
						continue
					}
					for _, sp := range svc.Spec.Ports {
						if sp.TargetPort.String() == p.Name {
							service = fmt.Sprintf("`%s.%s:%d`", svc.Name, svc.Namespace, sp.Port)
						}
					}
				}
				out = append(out, fmt.Sprintf("`%s` `%s` in `%s` %d %s", o.GetName(), spec.ServiceAccountName, o.GetNamespace(), p.ContainerPort, service))
			}
		}
	}
	return out
}

// The NetworkPolicies let in what listens, and nothing else, of pods that there are.
func TestNetworkPolicies(t *testing.T) {
	all := render(t, certificates())
	policies := kind(all, "NetworkPolicy")
	if len(policies) != 2 || len(kind(render(t, certificates().With(false, "networkPolicy", "enabled")), "NetworkPolicy")) != 0 {
		t.Fatalf("%d policies", len(policies))
	}
	for _, o := range policies {
		var p networkingv1.NetworkPolicy
		convert(t, o, &p)
		var d struct {
			Spec struct {
				Template corev1.PodTemplateSpec `json:"template"`
			} `json:"spec"`
		}
		find(t, all, "Deployment", p.Namespace, p.Name, &d)
		for k, v := range p.Spec.PodSelector.MatchLabels {
			if d.Spec.Template.Labels[k] != v {
				t.Errorf("%s selects %s=%s, which its pods are not", p.Name, k, v)
			}
		}
		var in, listens []string
		for _, r := range p.Spec.Ingress {
			for _, port := range r.Ports {
				in = append(in, port.Port.String())
			}
		}
		for _, port := range d.Spec.Template.Spec.Containers[0].Ports {
			listens = append(listens, port.Name)
		}
		if !slices.Equal(in, listens) || len(p.Spec.PolicyTypes) != 2 || len(p.Spec.Egress) == 0 {
			t.Errorf("%s lets in %q and its pods listen at %q; %+v", p.Name, in, listens, p.Spec)
		}
	}
}

// Whatever Prometheus finds by the usual annotations is the port of metrics.
func TestScrapeAnnotations(t *testing.T) {
	n := 0
	for _, o := range kind(render(t, certificates()), "Deployment") {
		var d struct {
			Spec struct {
				Template corev1.PodTemplateSpec `json:"template"`
			} `json:"spec"`
		}
		convert(t, o, &d)
		a := d.Spec.Template.Annotations
		if a["prometheus.io/scrape"] != "true" || a["prometheus.io/path"] != "/metrics" {
			t.Errorf("%s: %v", o.GetName(), a)
		}
		for _, p := range d.Spec.Template.Spec.Containers[0].Ports {
			if p.Name == "admin" && fmt.Sprint(p.ContainerPort) == a["prometheus.io/port"] {
				n++
			}
		}
	}
	if n != 2 {
		t.Errorf("%d processes with metrics are found, want 2", n)
	}
}
