package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/bench/peer"
	"github.com/tunmesh/tunmesh/bench/result"
)

// TestMain is also the program that TestExternal names.
func TestMain(m *testing.M) {
	if os.Getenv("BENCH_SIDE") != "" {
		fmt.Fprintln(os.Stderr, relayTLS())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// relayTLS is a sidecar as docs/benchmarks.md describes one: TLS 1.3 from the
// client's side to the server's, bytes on both ends.
func relayTLS() error {
	cert, err := tls.LoadX509KeyPair(os.Getenv("BENCH_CERT"), os.Getenv("BENCH_KEY"))
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(os.Getenv("BENCH_CA"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: roots, ClientCAs: roots,
		ClientAuth: tls.RequireAndVerifyClientCert, ServerName: os.Getenv("BENCH_PEER_NAME"),
	}
	plus, err := strconv.Atoi(os.Getenv("BENCH_OFFSET"))
	if err != nil {
		return err
	}
	failed := make(chan error)
	for kind := range strings.SplitSeq(os.Getenv("BENCH_PORTS"), ",") {
		_, text, _ := strings.Cut(kind, "=")
		port, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port+plus))
		if err != nil {
			return err
		}
		target := net.JoinHostPort(os.Getenv("BENCH_TARGET"), text)
		dial := func() (net.Conn, error) { return tls.Dial("tcp", target, cfg) }
		if os.Getenv("BENCH_SIDE") == "server" {
			l = tls.NewListener(l, cfg)
			dial = func() (net.Conn, error) { return net.Dial("tcp", target) }
		}
		go func() { failed <- serve(l, dial) }()
	}
	return <-failed
}

func serve(l net.Listener, dial func() (net.Conn, error)) error {
	for {
		down, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer down.Close()
			up, err := dial()
			if err != nil {
				return
			}
			defer up.Close()
			go func() {
				_, _ = io.Copy(up, down)
				_ = up.(interface{ CloseWrite() error }).CloseWrite()
			}()
			_, _ = io.Copy(down, up)
		}()
	}
}

// TestExternal measures a program that is named by its path.
func TestExternal(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	dir, err := os.MkdirTemp("", "bench-external-") // sidecars, who are not root, look into it
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bench, program, doc := filepath.Join(dir, "bench"), filepath.Join(dir, "program"), filepath.Join(dir, "doc.json")
	for _, args := range [][]string{{"chmod", "755", dir}, {"cp", self, program}, {"go", "build", "-o", bench, "."}} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	run := func(path string) (string, error) {
		out, err := exec.CommandContext(t.Context(), bench, "run", "--workloads", "h1-16,echo-64", "--peers", peer.Direct+",mine", "--external", "mine="+path,
			"--rounds", "1", "--duration", "200ms", "--quiet", "1ms", "--json", doc).CombinedOutput()
		return string(out), err
	}
	out, err := run(program)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := result.Read(doc)
	if err != nil {
		t.Fatal(err)
	}
	measured := map[string]bool{}
	for _, r := range b.Runs {
		if r.Peer == "mine" && r.Load.Count > 0 && r.Load.Failed == 0 {
			measured[r.Workload] = true
		}
	}
	if !measured["h1-16"] || !measured["echo-64"] {
		t.Errorf("measured: %v\n%s", measured, out)
	}
	if out, err := run(filepath.Join(dir, "nothing")); err != nil || !strings.Contains(out, "mine") || !strings.Contains(out, "--external mine=PATH") {
		t.Errorf("a program that is not there: %v: %s", err, out)
	}
}
