package faults

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/control/identity"
	"github.com/tunmesh/tunmesh/test/cluster/meshed"
)

// ns is where most pods of TestFaults are.
const ns = "load"

// other is another ServiceAccount than the default one.
const other = "other"

// authority is a trust anchor, with its key, and an issuer of it; PEM.
type authority struct{ anchor, anchorKey, cert, key []byte }

func newAuthority(t *testing.T) (a authority) {
	t.Helper()
	var err error
	if a.anchor, a.anchorKey, err = identity.NewAnchor("cluster.local", time.Now()); err != nil {
		t.Fatal(err)
	}
	a.cert, a.key = a.issuer(t, time.Now())
	return a
}

// issuer is another one of the same anchor, which holds from a time on.
func (a authority) issuer(t *testing.T, from time.Time) (cert, key []byte) {
	t.Helper()
	cert, key, err := identity.NewIssuer(a.anchor, a.anchorKey, "cluster.local", from)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// TestFaults breaks one thing after the other in one cluster, with three replicas of
// the control plane without whose word no pod is made.
func TestFaults(t *testing.T) {
	whole(t)
	p := meshed.Build(t)
	ca := newAuthority(t)
	dir := t.TempDir()
	file := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	m := &mesh{t: t, Mesh: meshed.Start(t, p, meshed.Options{Nodes: 3, Images: images(t), Install: []string{
		"--ha", "--identity-trust-anchors-file=" + file("ca.crt", ca.anchor),
		"--identity-issuer-certificate-file=" + file("issuer.crt", ca.cert), "--identity-issuer-key-file=" + file("issuer.key", ca.key),
	}})}
	m.Namespace(t, ns, true)
	m.Kubectl(t, "-n", ns, "create", "serviceaccount", other)
	m.apply(ns, server("web", 3)+server("busy", 2))
	m.rollout(ns, "web")
	m.rollout(ns, "busy")
	for _, step := range []struct {
		name string
		run  func(*mesh)
	}{
		{"tokens", func(m *mesh) { m.testTokens(ca) }},
		{"issuers", func(m *mesh) { m.testIssuers(ca) }},
		{"etcd is slow", (*mesh).testSlowStore},
		{"the API server is away", (*mesh).testServerAway},
		{"all replicas are lost", (*mesh).testReplicasLost},
		{"mesh-view is killed", (*mesh).testViewKilled},
		{"no injector and Fail", (*mesh).testNoInjectorFail},
		{"no injector and Ignore", (*mesh).testNoInjectorIgnore},
		{"no node agent", (*mesh).testNoAgent},
		{"an address is given away", (*mesh).testAddressReused},
		{"node agents are removed", (*mesh).testRemoved},
	} {
		t.Run(step.name, func(t *testing.T) { step.run(m.in(t)) })
	}
}

// under runs a fault while the servers are asked: no request may fail, and none of
// the servers is restarted.
func (m *mesh) under(fault func()) {
	m.t.Helper()
	before := m.restarts(ns)
	l := m.begin(ns)
	fault()
	l.end().flawless(m.t)
	if after := m.restarts(ns); after != before {
		m.t.Errorf("servers were restarted: before\n%s, after\n%s", before, after)
	}
}
