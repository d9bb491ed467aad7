package load_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
	r, err := load.Handshakes(to, cfg, 2, 16, false, 200*time.Millisecond)
	if err != nil || r.Count == 0 || r.All < r.Count || resumed.Load() > 0 || whole.Load() < int64(r.All) {
		t.Errorf("%d whole, %d resumed: %+v, %v", whole.Load(), resumed.Load(), r, err)
	}
	cfg.ServerName = "another.name"
	if _, err := load.Handshakes(to, cfg, 2, 16, false, 200*time.Millisecond); err == nil {
		t.Error("a failed handshake is no error")
	}
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	if _, err := load.Handshakes(to, cfg, 2, 16, false, 200*time.Millisecond); err == nil {
		t.Error("sessions may be resumed")
	}
}

// TestHandshakesHTTP1: the round trip is a request, of a server that takes no
// bytes but those.
func TestHandshakesHTTP1(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		size, _ := strconv.Atoi(r.URL.Path[1:])
		_, _ = w.Write(make([]byte, size))
	}))
	defer s.Close()
	to := netip.MustParseAddrPort(s.Listener.Addr().String())
	cfg := &tls.Config{InsecureSkipVerify: true}
	if r, err := load.Handshakes(to, cfg, 2, 16, true, 100*time.Millisecond); err != nil || r.Count == 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := load.Handshakes(to, cfg, 2, 16, false, 100*time.Millisecond); err == nil {
		t.Error("bytes that are no request came back")
	}
}

// TestHandshakesUnderWayAtTheEnd: whoever is still dialling then has not failed.
func TestHandshakesUnderWayAtTheEnd(t *testing.T) {
	// A listener whose queue is full drops SYNs.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	a, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(a.(*unix.SockaddrInet4).Port))
	for range 3 {
		c, err := net.DialTimeout("tcp", to.String(), 100*time.Millisecond)
		if err == nil {
			defer c.Close()
		}
	}
	for range 3 {
		if _, err := load.Handshakes(to, &tls.Config{InsecureSkipVerify: true}, 4, 16, false, 50*time.Millisecond); err == nil || !strings.Contains(err.Error(), "no handshake") {
			t.Fatalf("%v", err)
		}
	}
}
