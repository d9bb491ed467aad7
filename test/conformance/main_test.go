package conformance_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/nettest"
	"github.com/tunmesh/tunmesh/test/meshtest"
)

var (
	bin    meshtest.Bin // the programs, built once
	suites string       // a folder with h2spec and suites
)

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run() // every test skips
	}
	dir, err := os.MkdirTemp("", "conformance")
	if err == nil {
		defer os.RemoveAll(dir)
		bin, err = meshtest.Build(dir)
	}
	if err == nil {
		suites = filepath.Join(dir, "suites")
		err = buildSuites(suites)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// buildSuites builds the programs of the module in suites, which is not this one.
func buildSuites(to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-C", "suites", "-trimpath", "-o", to+"/", ".", "github.com/summerwind/h2spec/cmd/h2spec")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the suites: %w: %s", err, out)
	}
	return nil
}

// Ports of the Service, and of the pod behind it, on which a test may listen.
const firstPort, lastPort = 9000, 9031

// pair is a client's pod and a server's pod with their sidecars, and a Service
// before the server.
type pair struct {
	t              *testing.T
	mesh           *meshtest.Mesh
	client, server *space
	service        string // its address
	breaking       string // that of another one before the same server, with circuit breakers
	next           int
}

// space is a pod's network namespace.
type space struct {
	*nettest.Space
	t   *testing.T
	pid int
}

func up(t *testing.T) *pair {
	t.Helper()
	var ports strings.Builder
	for p := firstPort; p <= lastPort; p++ {
		fmt.Fprintf(&ports, "    - {name: p%d, port: %d}\n", p, p)
	}
	service := func(name, annotations string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: default, annotations: {%s}}\nspec:\n  selector: {app: server}\n  ports:\n%s", name, annotations, &ports)
	}
	m := meshtest.Up(t, bin, "conformance", meshtest.Client("client", true, ""), meshtest.Client("server", true, ""),
		service("server", ""), service("breaking", `balancer.tunmesh.io/failure-accrual: consecutive,
  balancer.tunmesh.io/failure-accrual-consecutive-max-failures: "1", balancer.tunmesh.io/failure-accrual-consecutive-min-penalty: 1m`))
	p := &pair{t: t, mesh: m, next: firstPort}
	p.client, p.server = enter(t, m.Pod(t, "client")), enter(t, m.Pod(t, "server"))
	p.service, p.breaking = p.resolve("server"), p.resolve("breaking")
	return p
}

func (p *pair) resolve(name string) string {
	p.t.Helper()
	fields := strings.Fields(string(p.mesh.Exec(p.t, "client", "getent", "ahostsv4", name)))
	if len(fields) == 0 {
		p.t.Fatalf("Service %s has no address", name)
	}
	return fields[0]
}

func enter(t *testing.T, pod meshtest.Pod) *space {
	t.Helper()
	pid := pod.PIDs["app"]
	if pid == 0 {
		t.Fatalf("pod %s has no app: %+v", pod.Name, pod)
	}
	return &space{Space: nettest.Open(t, fmt.Sprintf("/proc/%d/ns/net", pid)), t: t, pid: pid}
}

// port is one that nobody has used: its target is new to the sidecars.
func (p *pair) port() int {
	p.t.Helper()
	if p.next > lastPort {
		p.t.Fatal("the Service has no more ports")
	}
	p.next++
	return p.next - 1
}

// at is a port of the Service.
func (p *pair) at(port int) string { return net.JoinHostPort(p.service, fmt.Sprint(port)) }

// listen listens in the server's pod, as its app.
func (p *pair) listen(t *testing.T, port int) net.Listener {
	t.Helper()
	var l net.Listener
	err := p.server.Do(func() (err error) {
		l, err = new(net.ListenConfig).Listen(t.Context(), "tcp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// dial connects from the client's pod, as its app.
func (p *pair) dial(ctx context.Context, address string) (net.Conn, error) {
	var c net.Conn
	err := p.client.Do(func() (err error) {
		c, err = (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", address)
		return err
	})
	return c, err
}

// command is a program of this machine in the pod's network, not yet started.
func (s *space) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", fmt.Sprint(s.pid), "-n", "--", name}, args...)...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// output runs a program and returns its standard output.
func (s *space) output(t *testing.T, limit time.Duration, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := s.command(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, tail(stderr.String()))
	}
	return string(out), err
}

// start runs a server until the test's end, and waits until it listens.
func (s *space) start(t *testing.T, port int, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := s.command(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(name), tail(out.String()))
		}
	})
	meshtest.Eventually(t, 20*time.Second, filepath.Base(name)+" listens", func() bool {
		return s.Do(func() error {
			c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
			if err == nil {
				_ = c.Close()
			}
			return err
		}) == nil
	})
}

// need is the path of a program that may not be on this machine.
func need(t *testing.T, name, from string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed (%s): skipped", name, from)
	}
	return path
}

func tail(s string) string {
	const most = 4000
	return s[max(0, len(s)-most):]
}
