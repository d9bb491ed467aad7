// Package pki makes a cluster's keys, certificates and kubeconfigs. It owns who
// may call whom by which certificate; everything lives as long as a cluster of
// tests does, and is made anew for each.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/tunmesh/tunmesh/test/cluster/internal/layout"
)

// life of certificates: longer than any cluster of ours.
const life = 30 * 24 * time.Hour

type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

// maker writes into one folder; the first error stays.
type maker struct {
	dir string
	err error
}

// Make writes all files of a cluster below its pki folder, and its kubeconfig:
// server is where the API server is reached from the machine.
func Make(c layout.Cluster, server string) error {
	m := &maker{dir: filepath.Dir(c.PKI("x"))}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return err
	}
	ca, front := m.authority("ca"), m.authority("front-ca")
	m.serviceAccounts()
	m.leaf("apiserver", ca, pkix.Name{CommonName: "kube-apiserver"}, x509.ExtKeyUsageServerAuth, apiNames(), apiAddrs(c))
	m.client("apiserver-kubelet", ca, "kube-apiserver-kubelet-client", "system:masters")
	m.client("front", front, "front-proxy-client")
	inside := "https://" + c.Endpoint()
	for name, who := range map[string]pkix.Name{
		"controller-manager": {CommonName: "system:kube-controller-manager"},
		"scheduler":          {CommonName: "system:kube-scheduler"},
		"proxy":              {CommonName: "system:kube-proxy"},
		"admin":              {CommonName: "admin", Organization: []string{"system:masters"}},
	} {
		m.client(name, ca, who.CommonName, who.Organization...)
		m.kubeconfig(c.PKI(name+".kubeconfig"), name, ca, inside)
	}
	m.kubeconfig(c.Kubeconfig(), "admin", ca, server)
	for _, n := range c.AllNodes() {
		m.client(n.Name(), ca, "system:node:"+n.Name(), "system:nodes")
		m.kubeconfig(c.PKI(n.Name()+".kubeconfig"), n.Name(), ca, inside)
		m.leaf(n.Name()+"-serving", ca, pkix.Name{CommonName: "system:node:" + n.Name(), Organization: []string{"system:nodes"}},
			x509.ExtKeyUsageServerAuth, []string{n.Name()}, layout.Addrs(n.Addresses()))
	}
	if m.err != nil {
		return fmt.Errorf("make the cluster's certificates: %w", m.err)
	}
	return nil
}

func apiNames() []string {
	return []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
}

func apiAddrs(c layout.Cluster) []netip.Addr {
	out := append(layout.Addrs(c.Addresses()), netip.MustParseAddr("127.0.0.1"))
	for _, s := range c.Services() {
		out = append(out, s.Addr().Next()) // the Service kubernetes has the first
	}
	return out
}

func (m *maker) authority(name string) authority {
	key := m.key(name)
	if m.err != nil {
		return authority{}
	}
	t := m.template(pkix.Name{CommonName: name})
	t.IsCA, t.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
	cert, raw := m.sign(name, t, t, key.Public(), key)
	return authority{cert: cert, key: key, pem: raw}
}

func (m *maker) client(name string, ca authority, cn string, orgs ...string) {
	m.leaf(name, ca, pkix.Name{CommonName: cn, Organization: orgs}, x509.ExtKeyUsageClientAuth, nil, nil)
}

func (m *maker) leaf(name string, ca authority, who pkix.Name, use x509.ExtKeyUsage, dns []string, addrs []netip.Addr) {
	key := m.key(name)
	if m.err != nil {
		return
	}
	t := m.template(who)
	t.KeyUsage, t.ExtKeyUsage, t.DNSNames = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{use}, dns
	for _, a := range addrs {
		t.IPAddresses = append(t.IPAddresses, net.IP(a.AsSlice()))
	}
	m.sign(name, t, ca.cert, key.Public(), ca.key)
}

func (m *maker) template(who pkix.Name) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	m.keep(err)
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial, Subject: who, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(life),
	}
}

func (m *maker) sign(name string, t, parent *x509.Certificate, pub crypto.PublicKey, by crypto.Signer) (*x509.Certificate, []byte) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, by)
	m.keep(err)
	if m.err != nil {
		return nil, nil
	}
	cert, err := x509.ParseCertificate(der)
	m.keep(err)
	raw := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	m.write(name+".crt", raw)
	return cert, raw
}

func (m *maker) key(name string) crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	m.keep(err)
	if m.err == nil {
		m.private(name+".key", key)
	}
	return key
}

// serviceAccounts makes the key that signs ServiceAccount tokens: RSA, as
// installers make it.
func (m *maker) serviceAccounts() {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	m.keep(err)
	if m.err != nil {
		return
	}
	m.private("sa.key", key)
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	m.keep(err)
	m.write("sa.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub}))
}

func (m *maker) private(file string, key crypto.Signer) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	m.keep(err)
	m.write(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (m *maker) write(file string, raw []byte) {
	if m.err == nil {
		m.err = os.WriteFile(filepath.Join(m.dir, file), raw, 0o600)
	}
}

func (m *maker) keep(err error) {
	if m.err == nil {
		m.err = err
	}
}

// kubeconfig is written as JSON, which is YAML.
func (m *maker) kubeconfig(path, user string, ca authority, server string) {
	if m.err != nil {
		return
	}
	read := func(file string) string {
		raw, err := os.ReadFile(filepath.Join(m.dir, file))
		m.keep(err)
		return base64.StdEncoding.EncodeToString(raw)
	}
	type obj = map[string]any
	raw, err := json.MarshalIndent(obj{
		"apiVersion": "v1", "kind": "Config", "current-context": "tunmesh-test",
		"clusters": []obj{{"name": "tunmesh-test", "cluster": obj{"server": server, "certificate-authority-data": base64.StdEncoding.EncodeToString(ca.pem)}}},
		"users":    []obj{{"name": user, "user": obj{"client-certificate-data": read(user + ".crt"), "client-key-data": read(user + ".key")}}},
		"contexts": []obj{{"name": "tunmesh-test", "context": obj{"cluster": "tunmesh-test", "user": user}}},
	}, "", "  ")
	m.keep(err)
	if m.err == nil {
		m.err = os.WriteFile(path, raw, 0o600)
	}
}
