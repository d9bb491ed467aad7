package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"os"
	"testing"

	"github.com/tunmesh/tunmesh/test/cluster/internal/layout"
	"github.com/tunmesh/tunmesh/test/cluster/internal/pki"
)

func TestMake(t *testing.T) {
	c := layout.Cluster{Dir: t.TempDir(), Nodes: 2, DualStack: true}
	if err := pki.Make(c, "https://127.0.0.1:1234"); err != nil {
		t.Fatal(err)
	}
	roots := func(file string) *x509.CertPool {
		raw, err := os.ReadFile(c.PKI(file))
		if err != nil {
			t.Fatal(err)
		}
		p := x509.NewCertPool()
		p.AppendCertsFromPEM(raw)
		return p
	}
	leaf := func(name string) *x509.Certificate {
		pair, err := tls.LoadX509KeyPair(c.PKI(name+".crt"), c.PKI(name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf
	}
	for _, name := range []string{"127.0.0.1", "172.18.0.1", "10.96.0.1", "fd00:10:96::1", "kubernetes.default.svc"} {
		if _, err := leaf("apiserver").Verify(x509.VerifyOptions{Roots: roots("ca.crt"), DNSName: name}); err != nil {
			t.Errorf("the API server as %s: %v", name, err)
		}
	}
	if _, err := leaf("node2-serving").Verify(x509.VerifyOptions{Roots: roots("ca.crt"), DNSName: "172.18.0.12"}); err != nil {
		t.Error(err)
	}
	client := x509.VerifyOptions{Roots: roots("front-ca.crt"), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if _, err := leaf("front").Verify(client); err != nil {
		t.Error(err)
	}
	if _, err := leaf("admin").Verify(client); err == nil {
		t.Error("the front proxy's authority vouches for admin")
	}
	if got := leaf("node1").Subject; got.CommonName != "system:node:node1" || len(got.Organization) != 1 || got.Organization[0] != "system:nodes" {
		t.Errorf("node1 is %v", got)
	}
	var kc struct {
		Clusters []struct{ Cluster struct{ Server string } }
	}
	raw, err := os.ReadFile(c.Kubeconfig())
	if err == nil {
		err = json.Unmarshal(raw, &kc)
	}
	if err != nil || kc.Clusters[0].Cluster.Server != "https://127.0.0.1:1234" {
		t.Errorf("%v, %v", kc, err)
	}
}
