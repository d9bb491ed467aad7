package operations

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/deploy/manifest"
	"github.com/tunmesh/tunmesh/test/cluster"
	"github.com/tunmesh/tunmesh/test/cluster/meshed"
)

// limit bounds every wait.
const limit = 4 * time.Minute

// shop is an app of two pods of which one may be away at a time.
func shop() string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: app
        image: %s
        args: [serve]
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {timeout.tunmesh.io/request: 300ms}}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: shop}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}
`, cluster.TestImage)
}

func TestOperations(t *testing.T) {
	m := meshed.Start(t, meshed.Build(t), meshed.Options{Install: []string{"--set", "repair.enabled=true"}})
	m.Namespace(t, "shop", true)
	t.Run("pods are made again", func(t *testing.T) { testRepair(t, m) })
	t.Run("diagnostics", func(t *testing.T) { testDiagnostics(t, m) })
}

// injected says of each pod of the shop whether it has a sidecar.
func injected(ctx context.Context, m *meshed.Mesh) (with, without int, err error) {
	out, err := m.Run(ctx, nil, "-n", "shop", "get", "pods", "-o", `jsonpath={range .items[*]}{.metadata.deletionTimestamp}/{.metadata.annotations.tunmesh\.io/injected}{"\n"}{end}`)
	for line := range strings.Lines(out) {
		deleted, version, _ := strings.Cut(strings.TrimSpace(line), "/")
		switch {
		case deleted != "":
		case version != "":
			with++
		default:
			without++
		}
	}
	return with, without, err
}

// Pods that were made while nobody injected are named, evicted as their budget
// allows, and come back with their sidecar.
func testRepair(t *testing.T, m *meshed.Mesh) {
	m.Kubectl(t, "-n", manifest.Namespace, "scale", "deploy/mesh-control", "--replicas=0")
	cluster.Eventually(t, limit, "no replica is left", func(ctx context.Context) error {
		out, err := m.Run(ctx, nil, "-n", manifest.Namespace, "get", "pods", "-l", "app.kubernetes.io/name=mesh-control", "-o", "name")
		if err == nil && out != "" {
			err = errors.New(out)
		}
		return err
	})
	m.Apply(t, shop())
	m.Kubectl(t, "-n", "shop", "rollout", "status", "deploy/web", "--timeout=4m")
	if with, without, err := injected(t.Context(), m); err != nil || with != 0 || without != 2 {
		t.Fatalf("while nobody injects: %d with a sidecar, %d without, %v", with, without, err)
	}
	m.Kubectl(t, "-n", manifest.Namespace, "scale", "deploy/mesh-control", "--replicas=1")
	cluster.Eventually(t, limit, "both pods have a sidecar", func(ctx context.Context) error {
		with, without, err := injected(ctx, m)
		if err == nil && (with != 2 || without != 0) {
			err = fmt.Errorf("%d with a sidecar, %d without", with, without)
		}
		return err
	})
	m.Kubectl(t, "-n", "shop", "rollout", "status", "deploy/web", "--timeout=4m")
	for _, reason := range []string{"Unmeshed", "MadeAgain"} {
		cluster.Eventually(t, limit, "both pods have an event "+reason, func(ctx context.Context) error {
			out, err := m.Run(ctx, nil, "-n", "shop", "get", "events", "--field-selector=reason="+reason, "-o", "name")
			if err == nil && strings.Count(out, "event/") != 2 {
				err = errors.New(out)
			}
			return err
		})
	}
	if out := m.Meshctl(t, "diagnostics", "controller-metrics"); !strings.Contains(out, `repair_evictions_total{outcome="evicted"} 2`) {
		t.Errorf("not two evictions: %s", lines(out, "repair_"))
	}
	m.Meshctl(t, "check", "--proxy", "-n", "shop", "--wait", "2m")
}

// What the control plane says of a port, to whom may ask.
func testDiagnostics(t *testing.T, m *meshed.Mesh) {
	out := m.Meshctl(t, "-n", "shop", "diagnostics", "endpoints", "web:80")
	if !strings.HasPrefix(out, "NAMESPACE   IP ") || strings.Count(out, "web.shop") != 2 || strings.Count(out, "spiffe://cluster.local/ns/shop/sa/default") != 2 {
		t.Errorf("endpoints:\n%s", out)
	}
	if out := m.Meshctl(t, "diagnostics", "endpoints", "web.shop.svc.cluster.local:80", "-o", "json"); strings.Count(out, `"ready": true`) != 2 {
		t.Errorf("endpoints:\n%s", out)
	}
	if out := m.Meshctl(t, "-n", "shop", "diagnostics", "policy", "svc/web", "80"); !strings.Contains(out, "kind: SERVICE\n") || !strings.Contains(out, `requestMs: "300"`) {
		t.Errorf("policy of the Service:\n%s", out)
	}
	pod := strings.TrimSpace(m.Kubectl(t, "-n", "shop", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}"))
	if out := m.Meshctl(t, "-n", "shop", "diagnostics", "policy", "po/"+pod, "8080"); !strings.Contains(out, "default: ALL_UNAUTHENTICATED\n") || !strings.Contains(out, "path: /healthz\n") {
		t.Errorf("policy of the pod:\n%s", out)
	}
	// Who may view a namespace may ask about it, and about no other.
	m.Kubectl(t, "-n", "shop", "create", "rolebinding", "ann", "--clusterrole=view", "--user=ann")
	cluster.Eventually(t, limit, "ann sees the shop's endpoints", func(ctx context.Context) error {
		_, err := m.RunMeshctl(ctx, "--as=ann", "-n", "shop", "diagnostics", "endpoints", "web:80")
		return err
	})
	if _, err := m.RunMeshctl(t.Context(), "--as=ann", "diagnostics", "endpoints", "kubernetes.default:443"); err == nil || !strings.Contains(err.Error(), `User "ann" cannot get resource "services/endpoints" in API group "view.tunmesh.io" in the namespace "default"`) {
		t.Errorf("another namespace: %v", err)
	}
	if _, err := m.RunMeshctl(t.Context(), "--as=bob", "-n", "shop", "diagnostics", "policy", "svc/web", "80"); err == nil || !strings.Contains(err.Error(), `User "bob" cannot get resource "services/policy" in API group "view.tunmesh.io" in the namespace "shop"`) {
		t.Errorf("another user: %v", err)
	}
}

// lines are those of a text that begin with a word.
func lines(text, word string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, word) {
			out.WriteString(line)
		}
	}
	return out.String()
}
