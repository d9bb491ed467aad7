package faults

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/test/cluster"
	"github.com/tunmesh/tunmesh/test/cluster/meshed"
)

// setIssuer writes what cert-manager, or somebody, may write.
func (m *mesh) setIssuer(cert, key []byte) {
	m.t.Helper()
	m.apply(control.Namespace, fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: %s}
type: kubernetes.io/tls
data: {tls.crt: %s, tls.key: %s}
`, control.IssuerSecret, base64.StdEncoding.EncodeToString(cert), base64.StdEncoding.EncodeToString(key)))
}

// healthy waits until all replicas say whether their authority is what is written.
func (m *mesh) healthy(yes int) {
	m.t.Helper()
	m.Script(m.t, fmt.Sprintf(`
until [ $(meshctl diagnostics controller-metrics | grep -c '^certificate_authority_healthy %d$') = 3 ]; do
  sleep 1
done`, yes))
}

// testIssuers: an issuer that cannot be used is named by check and a metric, and the
// one before it goes on signing. A replica that starts with it is not ready, so that
// a rollout stops before anything is lost.
func (m *mesh) testIssuers(ca authority) {
	const year = 366 * 24 * time.Hour
	other := newAuthority(m.t)
	expired, expiredKey := ca.issuer(m.t, time.Now().Add(-2*year))
	early, earlyKey := ca.issuer(m.t, time.Now().Add(48*time.Hour))
	m.under(func() {
		for i, bad := range []struct {
			cert, key []byte
			want      string
		}{
			{expired, expiredKey, "has expired on"},
			{early, earlyKey, "does not hold before"},
			{other.cert, other.key, "does not lead to a trust anchor"},
		} {
			m.setIssuer(bad.cert, bad.key)
			m.healthy(0)
			if out := m.Script(m.t, "meshctl check || true"); !strings.Contains(out, bad.want) || !strings.Contains(out, "×") {
				m.t.Errorf("meshctl check does not say %q:\n%s", bad.want, out)
			}
			pod := fmt.Sprintf("starts-%d", i)
			m.apply(ns, meshed.Server(pod, ""))
			m.WaitFor(m.t, "condition=Ready", "-n", ns, "pod/"+pod)
			m.Kubectl(m.t, "-n", ns, "delete", "pod", pod, "--wait=false")
		}
		m.Kubectl(m.t, "-n", "tunmesh", "rollout", "restart", "deploy/mesh-control")
		cluster.Eventually(m.t, limit, "a replica that starts says why it is not ready", func(ctx context.Context) error {
			out, err := m.Run(ctx, nil, "-n", "tunmesh", "get", "pods", "-l", "app.kubernetes.io/name=mesh-control", "-o", `jsonpath={range .items[?(@.status.containerStatuses[0].ready==false)]}{.metadata.name}{end}`)
			if err != nil {
				return err
			}
			if out, err = m.Run(ctx, nil, "-n", "tunmesh", "logs", out); err == nil && !strings.Contains(out, "does not lead to a trust anchor") {
				err = errors.New(out)
			}
			return err
		})
		if out := m.Kubectl(m.t, "-n", "tunmesh", "get", "deploy", "mesh-control", "-o", "jsonpath={.status.availableReplicas}"); out != "3" {
			m.t.Errorf("%s replicas are available", out)
		}
		m.setIssuer(ca.cert, ca.key)
		m.rollout("tunmesh", "mesh-control")
		m.Meshctl(m.t, "check", "--proxy", "--wait", limit.String())
	})
}
