// Package meshtest runs a local mesh for end-to-end tests: it builds the
// programs, starts meshctl local in a mesh of its own, runs commands in pods,
// and takes everything down. It owns the harness and refuses to know what is
// tested with it.
package meshtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// module is where the programs come from.
const module = "github.com/tunmesh/tunmesh"

// Bin is a folder with all programs and the tests' own.
type Bin string

// guard waits for the end of the process that holds its input, and removes what
// is left then: the meshes of that process, $1, and its programs, $0.
const guard = `cat >/dev/null
for mesh in /run/tunmesh-local/*-"$1"; do
	if [ -d "$mesh" ]; then "$0"/meshctl local down --grace-period 0s --name "${mesh##*/}"; fi
done
rm -rf "$0"`

// watch starts the guard over this process. A test that is killed, or runs out
// of time, takes nothing down itself.
func watch(dir string) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil { // p[1] is open as long as we live
		return fmt.Errorf("make a pipe: %w", err)
	}
	in := os.NewFile(uintptr(p[0]), "guard's input")
	defer in.Close()
	cmd := exec.Command("sh", "-c", guard, dir, strconv.Itoa(os.Getpid()))
	cmd.Stdin = in
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is not for it
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the guard: %w", err)
	}
	return nil
}

// Build makes a Bin in dir; go's build cache makes a second time cheap. When the
// process ends, however it ends, its meshes are taken down and dir is removed.
func Build(dir string) (Bin, error) {
	if err := watch(dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Join(dir, "cni"), 0o755); err != nil {
		return "", err
	}
	for to, pkgs := range map[string][]string{
		dir + "/": {
			module + "/cmd/mesh-proxy", module + "/cmd/mesh-control", module + "/cmd/mesh-cni", module + "/cmd/meshctl", module + "/cmd/emojivoto",
			module + "/test/local/testapp", module + "/test/bypass/attacker",
		},
		filepath.Join(dir, "cni") + "/": {
			"github.com/containernetworking/plugins/plugins/main/bridge", "github.com/containernetworking/plugins/plugins/main/ptp",
			"github.com/containernetworking/plugins/plugins/main/loopback", "github.com/containernetworking/plugins/plugins/ipam/host-local",
			"github.com/containernetworking/plugins/plugins/meta/portmap",
		},
	} {
		cmd := exec.Command("go", append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", to}, pkgs...)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build the programs: %w: %s", err, out)
		}
	}
	return Bin(dir), nil
}

// Mesh is a running local mesh.
type Mesh struct {
	Name string
	bin  Bin
}

// Named is a mesh that is not started; its name is the test process's own.
func Named(bin Bin, name string) *Mesh {
	return &Mesh{Name: fmt.Sprintf("%s-%d", name, os.Getpid()), bin: bin}
}

// Up starts a mesh with the manifests (YAML text) and waits until all its pods
// are ready; the test's end takes it down and shows the logs of a failed one.
func Up(t *testing.T, bin Bin, name string, manifests ...string) *Mesh {
	t.Helper()
	return UpWith(t, bin, name, nil, manifests...)
}

// UpWith is Up with flags of `meshctl local up`.
func UpWith(t *testing.T, bin Bin, name string, flags []string, manifests ...string) *Mesh {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: runs pods in namespaces")
	}
	m := Named(bin, name)
	file := filepath.Join(t.TempDir(), "app.yaml")
	if err := os.WriteFile(file, []byte(strings.Join(manifests, "\n---\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(m.logs())
		}
		if out, err := m.run(time.Minute, "local", "down"); err != nil {
			t.Errorf("meshctl local down: %v: %s", err, out)
		}
	})
	if out, err := m.run(2*time.Minute, append([]string{"local", "up", "--detach", "-f", file}, flags...)...); err != nil {
		t.Fatalf("meshctl local up: %v: %s", err, out)
	}
	m.WaitReady(t, time.Minute)
	return m
}

// Pod is a row of `meshctl local ps -o json`, and what /proc says of it.
type Pod struct {
	Namespace  string   `json:"namespace"`
	Name       string   `json:"name"`
	Containers string   `json:"ready"` // "1/2"
	Meshed     bool     `json:"meshed"`
	Status     string   `json:"status"`
	IPs        []string `json:"ips"`
	Restarts   int      `json:"restarts"`

	IP    string         `json:"-"` // the first
	Ready bool           `json:"-"`
	PIDs  map[string]int `json:"-"` // of the machine: "mesh-proxy" and "app"
}

// Pods lists the mesh's pods.
func (m *Mesh) Pods(t *testing.T) []Pod {
	t.Helper()
	out, err := m.run(10*time.Second, "local", "ps", "-o", "json")
	if err != nil {
		t.Fatalf("meshctl local ps: %v: %s", err, out)
	}
	var pods []Pod
	if err := json.Unmarshal(out, &pods); err != nil {
		t.Fatalf("meshctl local ps -o json: %v: %s", err, out)
	}
	pids := m.processes()
	for i := range pods {
		p := &pods[i]
		ready, all, _ := strings.Cut(p.Containers, "/")
		p.Ready = ready == all && p.Status == "Running"
		p.PIDs = pids[p.Name]
		if len(p.IPs) > 0 {
			p.IP = p.IPs[0]
		}
	}
	return pods
}

// processes finds the first process of the sidecar and of the app of each pod:
// descendants of the holder, told apart by the host name that they see.
func (m *Mesh) processes() map[string]map[string]int {
	holder, err := m.HolderPID()
	if err != nil {
		return nil
	}
	parent := map[int]int{}
	name := map[int]string{}
	dirs, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, d := range dirs {
		raw, err := os.ReadFile(d)
		if err != nil {
			continue
		}
		open, end := bytes.IndexByte(raw, '('), bytes.LastIndexByte(raw, ')')
		var pid, ppid int
		var state string
		if _, err := fmt.Sscan(string(raw[:open]), &pid); err != nil {
			continue
		}
		if _, err := fmt.Sscan(string(raw[end+1:]), &state, &ppid); err != nil || state == "Z" {
			continue
		}
		parent[pid], name[pid] = ppid, string(raw[open+1:end])
	}
	out := map[string]map[string]int{}
	for pid, comm := range name {
		// The holder's own programs, and a pod's supervisor, which may see the host
		// name, too: who killed it for the app would kill the pod.
		if comm == "meshctl" || comm == "exe" || comm == "init" {
			continue
		}
		up := pid
		for up > 1 && up != holder {
			up = parent[up]
		}
		if up != holder {
			continue
		}
		host, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/etc/hostname", pid))
		if err != nil {
			continue
		}
		role := "app"
		if comm == "mesh-proxy" {
			role = comm
		}
		pod := strings.TrimSpace(string(host))
		if out[pod] == nil {
			out[pod] = map[string]int{}
		}
		if old, ok := out[pod][role]; !ok || pid < old {
			out[pod][role] = pid
		}
	}
	return out
}

// Pod is the pod whose name is, or begins with, name and a dash.
func (m *Mesh) Pod(t *testing.T, name string) Pod {
	t.Helper()
	for _, p := range m.Pods(t) {
		if p.Name == name || strings.HasPrefix(p.Name, name+"-") {
			return p
		}
	}
	t.Fatalf("no pod %s", name)
	return Pod{}
}

// WaitReady waits until every pod is ready.
func (m *Mesh) WaitReady(t *testing.T, limit time.Duration) {
	t.Helper()
	Eventually(t, limit, "all pods are ready", func() bool {
		pods := m.Pods(t)
		for _, p := range pods {
			if !p.Ready {
				return false
			}
		}
		return len(pods) > 0
	})
}

// Eventually polls cond; it fails the test after limit.
func Eventually(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		if cond() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// Ctl runs meshctl and returns its standard output; a failure fails the test.
func (m *Mesh) Ctl(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := m.run(2*time.Minute, args...)
	if err != nil {
		t.Fatalf("meshctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// Program is the path of one of the programs that Build made.
func (m *Mesh) Program(name string) string { return filepath.Join(string(m.bin), name) }

// Command is meshctl on this mesh, not yet started.
func (m *Mesh) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(string(m.bin), "meshctl"), args...)
	cmd.Env = append(os.Environ(), "TUNMESH_LOCAL="+m.Name, "NO_COLOR=1")
	return cmd
}

// Shell is a line of bash, not yet started, whose meshctl is on this mesh.
func (m *Mesh) Shell(ctx context.Context, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", "-c", line)
	cmd.Env = append(os.Environ(), "TUNMESH_LOCAL="+m.Name, "NO_COLOR=1", "PATH="+string(m.bin)+":"+os.Getenv("PATH"))
	return cmd
}

// View asks the console's API of this mesh.
func (m *Mesh) View(t *testing.T, path string) []byte {
	t.Helper()
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join("/run/tunmesh-local", m.Name, "view.sock"))
	}}}
	resp, err := client.Get("http://view/apis/view.tunmesh.io/v1alpha1/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %v: %s", path, resp.Status, err, body)
	}
	return body
}

func (m *Mesh) run(limit time.Duration, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := m.Command(ctx, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return out, err
}

// Exec runs a command in a pod's first container.
func (m *Mesh) Exec(t *testing.T, pod string, command ...string) []byte {
	t.Helper()
	out, err := m.TryExec(2*time.Minute, pod, command...)
	if err != nil {
		t.Fatalf("in %s, %s: %v: %s", pod, strings.Join(command, " "), err, out)
	}
	return out
}

// TryExec is Exec whose failure is the caller's.
func (m *Mesh) TryExec(limit time.Duration, pod string, command ...string) ([]byte, error) {
	return m.run(limit, append([]string{"local", "exec", pod, "--"}, command...)...)
}

// JSON runs a command in a pod and decodes the document it prints.
func JSON[T any](t *testing.T, m *Mesh, pod string, command ...string) T {
	t.Helper()
	out := m.Exec(t, pod, command...)
	var v T
	if err := json.Unmarshal(bytes.TrimSpace(out), &v); err != nil {
		t.Fatalf("in %s, %s: %v: %s", pod, strings.Join(command, " "), err, out)
	}
	return v
}

// InNode runs a command in the mesh's node: the holder's network namespace.
func (m *Mesh) InNode(t *testing.T, command ...string) *exec.Cmd {
	t.Helper()
	pid, err := m.HolderPID()
	if err != nil {
		t.Fatal(err)
	}
	return exec.Command("nsenter", append([]string{"-t", fmt.Sprint(pid), "-n", "--"}, command...)...)
}

// HolderPID is the process that holds the mesh.
func (m *Mesh) HolderPID() (int, error) {
	raw, err := os.ReadFile(filepath.Join("/run/tunmesh-local", m.Name, "holder.json"))
	if err != nil {
		return 0, err
	}
	var h struct{ PID int }
	if err := json.Unmarshal(raw, &h); err != nil || h.PID == 0 {
		return 0, errors.Join(err, fmt.Errorf("no pid in holder.json: %s", raw))
	}
	return h.PID, nil
}

// Part is the running process of a part of the node whose command line begins
// with these words ("mesh-control", "mesh-cni", "agent"), 0 when there is none.
func (m *Mesh) Part(words ...string) int {
	holder, err := m.HolderPID()
	if err != nil {
		return 0
	}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", holder))
	for _, list := range lists {
		raw, err := os.ReadFile(list)
		if err != nil {
			continue // a thread that has ended
		}
		for _, child := range strings.Fields(string(raw)) {
			line, _ := os.ReadFile(filepath.Join("/proc", child, "cmdline"))
			argv := strings.Split(string(line), "\x00")
			argv[0] = filepath.Base(argv[0])
			if len(argv) < len(words) || !slices.Equal(argv[:len(words)], words) {
				continue
			}
			if pid, err := strconv.Atoi(child); err == nil {
				return pid
			}
		}
	}
	return 0
}

func (m *Mesh) logs() string {
	var b strings.Builder
	files, _ := filepath.Glob(filepath.Join("/run/tunmesh-local", m.Name, "*.log"))
	more, _ := filepath.Glob(filepath.Join("/run/tunmesh-local", m.Name, "logs", "*", "*.log"))
	for _, f := range append(files, more...) {
		raw, _ := os.ReadFile(f)
		if len(raw) > 6000 {
			raw = raw[len(raw)-6000:]
		}
		fmt.Fprintf(&b, "==== %s\n%s\n", f, raw)
	}
	return b.String()
}
