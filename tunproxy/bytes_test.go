package tunproxy_test

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
)

func echo(c net.Conn) {
	_, _ = io.Copy(c, c)
	_ = c.(aio.CloseWriter).CloseWrite()
}

func TestBytesCrossTwoSidecars(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:9000", "10.0.0.2:9000=b")
	remote := make(chan string, 1)
	b.serve(9000, func(c net.Conn) {
		remote <- c.RemoteAddr().(*net.TCPAddr).IP.String()
		echo(c)
	})
	saw := w.sniff()
	c := a.dial("10.96.0.1:9000")
	marker := "\x00a marker that must not be seen"
	if _, err := io.WriteString(c, marker); err != nil {
		t.Fatal(err)
	}
	_ = c.(aio.CloseWriter).CloseWrite()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != marker {
		t.Fatalf("got %q, %v", got, err)
	}
	if ip := <-remote; ip != "10.0.0.1" {
		t.Errorf("the server sees %s, want the client's pod", ip)
	}
	if saw(marker) {
		t.Error("the marker crossed the wire in plain text")
	}
	eventually(t, "metrics of both ends", func() bool {
		return a.metric("tcp_open_total", `direction="outbound"`, `peer="dst"`, `tls="true"`, `server_id="b.test.sa.cluster.local"`) == 1 &&
			b.metric("tcp_open_total", `direction="inbound"`, `peer="src"`, `tls="true"`, `client_id="a.test.sa.cluster.local"`) == 1 &&
			b.metric("tcp_close_total", `peer="src"`) == 1
	})
}

func TestServerSpeaksFirst(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	out := w.hostOutside("10.0.0.9")
	w.service("10.96.0.1:25", "10.0.0.2:25=b")
	w.service("10.96.0.2:25", "10.0.0.9:25")
	smtp := func(c net.Conn) {
		_, _ = io.WriteString(c, "220 mail ready\r\n")
		line, _ := bufio.NewReader(c).ReadString('\n')
		_, _ = io.WriteString(c, "250 hello "+line)
	}
	b.serve(25, smtp)
	out.serve(25, smtp)
	for name, dial := range map[string]func() net.Conn{
		"meshed to meshed":  func() net.Conn { return a.dial("10.96.0.1:25") },
		"meshed to plain":   func() net.Conn { return a.dial("10.96.0.2:25") },
		"outside to meshed": func() net.Conn { return out.dial("10.0.0.2:25") },
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			r := bufio.NewReader(dial())
			line, err := r.ReadString('\n')
			if err != nil || line != "220 mail ready\r\n" {
				t.Fatalf("greeting %q, %v", line, err)
			}
			if d := time.Since(began); d > 500*time.Millisecond {
				t.Errorf("the greeting took %v", d)
			}
		})
	}
}

// A sidecar connects before it knows what its client will say, and ends the
// connection if it then needs none. The app's greeting must not answer that in
// the clear; somebody outside of the mesh who half-closes at once gets it.
func TestAGreetingIsNotSaidToASidecarThatEnds(t *testing.T) {
	w := newWorld(t)
	b := w.pod("b", "10.0.0.2")
	meshed, out := w.hostOutside("10.0.0.7"), w.hostOutside("10.0.0.9")
	w.service("10.0.0.7:25", "10.0.0.7:25=a")
	b.serve(25, func(c net.Conn) { _, _ = io.WriteString(c, "220 mail ready\r\n") })
	for name, c := range map[string]struct {
		conn net.Conn
		want string
	}{
		"an address of the mesh": {meshed.dial("10.0.0.2:25"), ""},
		"an outsider":            {out.dial("10.0.0.2:25"), "220 mail ready\r\n"},
	} {
		if err := c.conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_ = c.conn.SetDeadline(time.Now().Add(5 * time.Second))
		if got, _ := io.ReadAll(c.conn); string(got) != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestRefusedIsRefused(t *testing.T) {
	w := newWorld(t)
	a := w.pod("a", "10.0.0.1")
	w.pod("b", "10.0.0.2")
	w.hostOutside("10.0.0.9")
	w.service("10.96.0.1:80")                                   // no endpoints
	w.service("10.96.0.2:80", "10.0.0.2:82=b")                  // closed target port
	w.service("10.96.0.3:80", "10.0.0.9:80")                    // closed port outside
	w.service("10.96.0.4:80", "10.0.0.2:81=b", "10.0.0.2:82=b") // all closed
	for _, dst := range []string{"10.96.0.1:80", "10.0.0.2:80", "10.96.0.2:80", "10.96.0.3:80", "10.0.0.9:80", "10.96.0.4:80"} {
		began := time.Now()
		c, err := a.dialTo(dst)
		if err == nil {
			_ = c.Close()
			t.Errorf("%s: connected", dst)
			continue
		}
		if !errors.Is(err, aio.ErrRefused) {
			t.Errorf("%s: %v, want refused", dst, err)
		}
		if d := time.Since(began); d > 500*time.Millisecond {
			t.Errorf("%s: refused after %v", dst, d)
		}
	}
}

func TestUnknownTargetsAreRefusedNeverPlain(t *testing.T) {
	w := newWorld(t)
	a := w.pod("a", "10.0.0.1")
	out := w.hostOutside("10.0.0.9")
	out.serve(80, echo)
	w.silent[netipAddrPort("10.0.0.9:80")] = true
	if c, err := a.dialTo("10.0.0.9:80"); err == nil || !errors.Is(err, aio.ErrRefused) {
		t.Fatalf("conn %v, err %v", c, err)
	}
}

func TestHalfCloseAndBulk(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:9000", "10.0.0.2:9000=b")
	b.serve(9000, func(c net.Conn) { // the digest of all that comes, then the same amount back
		h := sha256.New()
		n, err := io.Copy(h, c)
		if err != nil {
			return
		}
		_, _ = c.Write(h.Sum(nil))
		_, _ = io.CopyN(c, rand.NewChaCha8([32]byte{2}), n)
	})
	size := int64(64 << 20)
	if testing.Short() {
		size = 4 << 20
	}
	c := a.dial("10.96.0.1:9000")
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	sent := sha256.New()
	go func() {
		_, _ = c.Write([]byte{0})
		sent.Write([]byte{0})
		_, _ = io.CopyN(io.MultiWriter(c, sent), rand.NewChaCha8([32]byte{1}), size)
		_ = c.(aio.CloseWriter).CloseWrite()
	}()
	digest := make([]byte, sha256.Size)
	if _, err := io.ReadFull(c, digest); err != nil {
		t.Fatal(err)
	}
	if string(digest) != string(sent.Sum(nil)) {
		t.Fatal("the upload arrived changed")
	}
	got, want := sha256.New(), sha256.New()
	n, err := io.Copy(got, c)
	if err != nil || n != size+1 {
		t.Fatalf("%d bytes back, %v", n, err)
	}
	_, _ = io.CopyN(want, rand.NewChaCha8([32]byte{2}), size+1)
	if string(got.Sum(nil)) != string(want.Sum(nil)) {
		t.Fatal("the download arrived changed")
	}
}

func TestResetCrossesTwoSidecars(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:9000", "10.0.0.2:9000=b")
	b.serveRaw(9000, func(c aio.Conn) { c.SetHandler(resetter{}) })
	c := a.dial("10.96.0.1:9000")
	if _, err := c.Write([]byte("\x00unread")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(c); !errors.Is(err, aio.ErrReset) {
		t.Fatalf("read: %v, want a reset", err)
	}
}

// The app's own TLS is bytes to the mesh, inside mTLS where the peer is meshed.
func TestTheAppsOwnTLS(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	out := w.hostOutside("10.0.0.9")
	w.service("10.96.0.1:9000", "10.0.0.2:9000=b")
	w.service("10.96.0.2:9000", "10.0.0.9:9000")
	cert := w.ca.Issue(t, mtlstest.Leaf{URIs: []string{"spiffe://app/ns/x/sa/y"}})
	cfg := &tls.Config{Certificates: []tls.Certificate{{Certificate: cert.Chain, PrivateKey: cert.Key}}}
	for _, h := range []*host{b.host, out} {
		h.serve(9000, func(c net.Conn) {
			s := tls.Server(c, cfg)
			_, _ = io.Copy(s, s)
			_ = s.Close()
		})
	}
	for _, dst := range []string{"10.96.0.1:9000", "10.96.0.2:9000"} {
		c := tls.Client(a.dial(dst), &tls.Config{InsecureSkipVerify: true, ServerName: "app.example"})
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(dst, err)
		}
		if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Fatal(dst, err)
		}
		_ = c.Close()
	}
	eventually(t, "metrics", func() bool {
		return a.metric("tcp_open_total", `peer="dst"`, `tls="true"`, `server_id="b.test.sa.cluster.local"`) == 1 &&
			a.metric("tcp_open_total", `peer="dst"`, `tls="opaque"`, `sni="app.example"`) == 1
	})
}

func TestIPv6(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "fd00::1"), w.pod("b", "fd00::2")
	w.service("[fd00:96::1]:9000", "[fd00::2]:9000=b")
	w.service("[fd00:96::1]:80", "[fd00::2]:80=b")
	b.serve(9000, echo)
	b.serveHTTP(80, whoami("b"))
	c := a.dial("[fd00:96::1]:9000")
	_, _ = c.Write([]byte{0, 1})
	if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	resp, err := a.client(true).Get("http://[fd00:96::1]/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); !strings.Contains(string(body), "from fd00::1") {
		t.Errorf("%s", body)
	}
	if _, err := a.dialTo("[fd00::2]:82"); !errors.Is(err, aio.ErrRefused) {
		t.Errorf("closed port: %v", err)
	}
}

// A pod that reaches itself through a Service is answered, and sees the
// Service's address as its client.
func TestAPodReachesItself(t *testing.T) {
	w := newWorld(t)
	a := w.pod("a", "10.0.0.1")
	w.service("10.96.0.1:9000", "10.0.0.1:9000=a")
	remote := make(chan string, 1)
	a.serve(9000, func(c net.Conn) {
		remote <- c.RemoteAddr().(*net.TCPAddr).IP.String()
		echo(c)
	})
	c := a.dial("10.96.0.1:9000")
	_, _ = c.Write([]byte{0, 1})
	if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	if ip := <-remote; ip != "10.96.0.1" {
		t.Errorf("the server sees %s", ip)
	}
}
