package load_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/bench/load"
	"github.com/tunmesh/tunmesh/bench/pki"
)

// TestHandshakes: every one is whole, though the server offers tickets.
func TestHandshakes(t *testing.T) {
	dir := t.TempDir()
	if err := pki.Write(dir, 0); err != nil {
		t.Fatal(err)
	}
	pair := func(side string) tls.Certificate {
		t.Helper()
		c, err := tls.LoadX509KeyPair(filepath.Join(dir, side+".pem"), filepath.Join(dir, side+".key"))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ca, err := os.ReadFile(filepath.Join(dir, pki.CA))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	var whole, resumed atomic.Int64
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair("server")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
		VerifyConnection: func(s tls.ConnectionState) error {
			if s.DidResume {
				resumed.Add(1)
			} else {
				whole.Add(1)
			}
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func(c net.Conn) { _, _ = io.Copy(c, c); _ = c.Close() }(c)
		}
	}()
	cfg := &tls.Config{Certificates: []tls.Certificate{pair("client")}, RootCAs: pool, ServerName: pki.Name("server")}
	to := netip.MustParseAddrPort(l.Addr().String())
	r, err := load.Handshakes(to, cfg, 2, 16, 200*time.Millisecond)
	if err != nil || r.Count == 0 || r.All < r.Count || resumed.Load() > 0 || whole.Load() < int64(r.All) {
		t.Errorf("%d whole, %d resumed: %+v, %v", whole.Load(), resumed.Load(), r, err)
	}
	cfg.ServerName = "another.name"
	if _, err := load.Handshakes(to, cfg, 2, 16, 200*time.Millisecond); err == nil {
		t.Error("a failed handshake is no error")
	}
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	if _, err := load.Handshakes(to, cfg, 2, 16, 200*time.Millisecond); err == nil {
		t.Error("sessions may be resumed")
	}
}
