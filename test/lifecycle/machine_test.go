package lifecycle

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

// machine is what a mesh must leave as it was.
func machine(t *testing.T) map[string]string {
	t.Helper()
	m := map[string]string{}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	m["mounts"] = string(mounts)
	for name, args := range map[string][]string{
		"links": {"-o", "link"}, "addresses": {"-o", "addr"}, "rules": {"rule"}, "rules of IPv6": {"-6", "rule"},
		"routes": {"route", "show", "table", "all"}, "namespaces": {"netns"},
	} {
		out, err := exec.Command("ip", args...).Output()
		if err != nil {
			t.Fatalf("ip %v: %v", args, err)
		}
		// Lifetimes of addresses count down by themselves.
		m[name] = string(out)
		if name == "addresses" {
			m[name] = lifetimes(m[name])
		}
	}
	for _, root := range []string{"/proc/sys/net", "/proc/sys/kernel", "/proc/sys/vm", "/proc/sys/user"} {
		_ = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(p, "_congestion_control") { // others load some
				return nil
			}
			if raw, err := os.ReadFile(p); err == nil {
				m["sysctl "+p] = string(raw)
			}
			return nil
		})
	}
	return m
}

func lifetimes(s string) string {
	var out []string
	for line := range strings.Lines(s) {
		before, _, _ := strings.Cut(line, "valid_lft")
		out = append(out, before)
	}
	return strings.Join(out, "\n")
}

// before takes the machine twice, so that what changes by itself is left out.
func before(t *testing.T) map[string]string {
	t.Helper()
	a := machine(t)
	time.Sleep(200 * time.Millisecond)
	b := machine(t)
	for k := range a {
		if a[k] != b[k] {
			delete(a, k)
		}
	}
	return a
}

// same fails unless the machine is as it was. It looks again for some seconds:
// what others do on the machine meanwhile (a namespace of their own) passes, and
// what a mesh left stays.
func same(t *testing.T, was map[string]string) {
	t.Helper()
	var changed []string
	for until := time.Now().Add(5 * time.Second); ; time.Sleep(250 * time.Millisecond) {
		changed = changed[:0]
		now := machine(t)
		for _, k := range slices.Sorted(maps.Keys(was)) {
			if now[k] != was[k] {
				changed = append(changed, k+" changed:\n"+difference(was[k], now[k]))
			}
		}
		if len(changed) == 0 || time.Now().After(until) {
			break
		}
	}
	for _, c := range changed {
		t.Error(c)
	}
}

// difference lists the lines that only one of two texts has.
func difference(was, now string) string {
	a, b := strings.Split(was, "\n"), strings.Split(now, "\n")
	var out []string
	for _, l := range a {
		if !slices.Contains(b, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

// family lists the processes below pid, and pid.
func family(pid int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, s := range stats {
		raw, err := os.ReadFile(s)
		if err != nil {
			continue
		}
		f := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
		ppid, _ := strconv.Atoi(f[1])
		me, _ := strconv.Atoi(filepath.Base(filepath.Dir(s)))
		children[ppid] = append(children[ppid], me)
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

func alive(pids []int) []int {
	return slices.DeleteFunc(slices.Clone(pids), func(pid int) bool {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(raw), ") Z ")
	})
}

const sleeper = `apiVersion: apps/v1
kind: Deployment
metadata: {name: sleeper}
spec:
  replicas: 2
  selector: {matchLabels: {app: sleeper}}
  template:
    metadata: {labels: {app: sleeper}, annotations: {tunmesh.io/inject: enabled}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - {name: c, image: x, command: [sh, -c, "trap exit TERM; while true; do sleep 0.1; done"]}
`

// A holder that is killed takes everything with it; down and the next up clean
// what it left.
func TestKilledHolder(t *testing.T) {
	needRoot(t)
	was := before(t)
	m := meshtest.Up(t, bin, "killed", sleeper)
	for _, again := range []string{"up", "down"} {
		pid, err := m.HolderPID()
		if err != nil {
			t.Fatal(err)
		}
		all := family(pid)
		if len(all) < 8 { // holder, control, agent, keeper, two supervisors, two apps, two proxies
			t.Fatalf("only %d processes below the holder", len(all))
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		meshtest.Eventually(t, 5*time.Second, "all processes are gone", func() bool { return len(alive(all)) == 0 })
		same(t, was)
		if out, err := m.Command(t.Context(), "local", "ps").CombinedOutput(); err == nil || !strings.Contains(string(out), "is not running") {
			t.Errorf("ps of a killed mesh: %v, %s", err, out)
		}
		if again == "up" {
			m.Ctl(t, "local", "up", "--detach")
			m.Ctl(t, "local", "apply", "-f", write(t, sleeper), "--wait", "60s")
		}
	}
	m.Ctl(t, "local", "down")
	if _, err := os.Stat("/run/tunmesh-local/" + m.Name); err == nil {
		t.Error("down left the state folder")
	}
	same(t, was)
}

func write(t *testing.T, text string) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "m.yaml")
	if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// A mesh in the foreground ends with its launcher: asked by Ctrl-C, or killed.
func TestForeground(t *testing.T) {
	needRoot(t)
	was := before(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			m := meshtest.Named(bin, "fore")
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			up := m.Command(ctx, "local", "up", "-f", write(t, sleeper))
			var said bytes.Buffer
			up.Stderr = &said
			if err := up.Start(); err != nil {
				t.Fatal(err)
			}
			meshtest.Eventually(t, time.Minute, "the mesh is up", func() bool {
				out, _ := m.Command(ctx, "local", "ps").Output()
				return strings.Count(string(out), "2/2") == 2
			})
			pid, err := m.HolderPID()
			if err != nil {
				t.Fatal(err)
			}
			all := family(pid)
			if err := up.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			err = up.Wait()
			meshtest.Eventually(t, 15*time.Second, "all processes are gone", func() bool { return len(alive(all)) == 0 })
			if sig == syscall.SIGKILL {
				m.Ctl(t, "local", "down")
			} else if err != nil {
				t.Errorf("up ended with %v: %s", err, said.String())
			}
			if _, err := os.Stat("/run/tunmesh-local/" + m.Name); err == nil {
				t.Error("the state folder is left")
			}
			same(t, was)
		})
	}
}

// Control plane and agent are started again; pods do not notice.
func TestPartsRestart(t *testing.T) {
	needRoot(t)
	m := meshtest.Up(t, bin, "parts", sleeper)
	holder, err := m.HolderPID()
	if err != nil {
		t.Fatal(err)
	}
	names := func() map[string]int {
		out := map[string]int{}
		for _, pid := range family(holder) {
			raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			arg := strings.Split(string(raw), "\x00")
			if len(arg) > 1 {
				out[filepath.Base(arg[0])+" "+arg[1]] = pid
			}
		}
		return out
	}
	was := names()
	for _, part := range []string{"mesh-control --dir", "mesh-cni agent"} {
		pid := was[part]
		if pid == 0 {
			t.Fatalf("no %s among %v", part, was)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		meshtest.Eventually(t, 10*time.Second, part+" runs again", func() bool {
			now := names()[part]
			return now != 0 && now != pid
		})
	}
	for _, p := range m.Pods(t) {
		if p.Restarts != 0 || !p.Ready {
			t.Errorf("pod %s: ready %v, %d restarts", p.Name, p.Ready, p.Restarts)
		}
	}
	// And new pods come up.
	m.Ctl(t, "local", "apply", "-f", write(t, strings.Replace(sleeper, "replicas: 2", "replicas: 3", 1)), "--wait", "60s")
}

func TestSideBySide(t *testing.T) {
	needRoot(t)
	a := meshtest.Up(t, bin, "left", sleeper)
	b := meshtest.Up(t, bin, "right", sleeper)
	pa, pb := a.Pod(t, "sleeper"), b.Pod(t, "sleeper")
	uid := func(pid int) string {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(raw), "Uid:")
		return strings.Fields(rest)[0]
	}
	if ua, ub := uid(pa.PIDs["app"]), uid(pb.PIDs["app"]); ua == ub || ua == "0" {
		t.Errorf("the pods of two meshes run as %s and %s", ua, ub)
	}
	a.Ctl(t, "local", "down")
	if p := b.Pod(t, "sleeper"); !p.Ready {
		t.Errorf("the end of one mesh touched the other: %+v", p)
	}
	if out, err := b.Command(t.Context(), "local", "up", "--detach").CombinedOutput(); err == nil || !strings.Contains(string(out), "is running already") {
		t.Errorf("a second up: %v, %s", err, out)
	}
}

// A holder that hangs is killed by down.
func TestHungHolder(t *testing.T) {
	needRoot(t)
	m := meshtest.Up(t, bin, "hung", sleeper)
	pid, err := m.HolderPID()
	if err != nil {
		t.Fatal(err)
	}
	all := family(pid)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c := m.Command(t.Context(), "local", "down", "--grace-period", "0s")
	out, err := c.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "is killed") {
		t.Errorf("down: %v, %s", err, out)
	}
	if left := alive(all); len(left) > 0 {
		t.Errorf("%d processes are left", len(left))
	}
}

// Whoever is not root is told what to type, and nothing is started.
func TestNotRoot(t *testing.T) {
	needRoot(t)
	m := meshtest.Named(bin, "user")
	for _, line := range []string{
		"local up", "local demo", "local ps", "local apply -f /dev/null", "local delete po/p", "local exec p -- true", "local logs p",
		"local port-forward p 1:1", "local down", "stat deploy -n x", "tap deploy/web",
	} {
		c := m.Command(t.Context(), strings.Fields(line)...)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := c.CombinedOutput()
		if err == nil || !strings.HasSuffix(string(out), ": sudo -E "+c.Path+" "+line+"\n") || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%s: %v, %s", line, err, out)
		}
	}
}

// abandonedEnv says that this test binary is the one to be killed.
const abandonedEnv = "LIFECYCLE_ABANDONED"

// A test that is killed leaves no mesh and no programs.
func TestAbandoned(t *testing.T) {
	needRoot(t)
	if os.Getenv(abandonedEnv) != "" {
		meshtest.Up(t, bin, "abandoned", sleeper)
		fmt.Println("up, programs in", string(bin))
		select {} // until it is killed
	}
	was := before(t)
	c := exec.Command("/proc/self/exe", "-test.run", "^TestAbandoned$")
	c.Env = append(os.Environ(), abandonedEnv+"=1")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	_, programs, _ := strings.Cut(strings.TrimSpace(line), "programs in ")
	if err != nil || programs == "" {
		t.Fatalf("%q, %v", line, err)
	}
	m := meshtest.Named(bin, "abandoned")
	m.Name = fmt.Sprintf("abandoned-%d", c.Process.Pid)
	pid, err := m.HolderPID()
	if err != nil {
		t.Fatal(err)
	}
	all := family(pid)
	if len(all) < 8 {
		t.Fatalf("only %d processes below the holder", len(all))
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	meshtest.Eventually(t, 30*time.Second, "all processes are gone", func() bool { return len(alive(all)) == 0 })
	for _, dir := range []string{programs, "/run/tunmesh-local/" + m.Name} {
		meshtest.Eventually(t, 10*time.Second, dir+" is gone", func() bool {
			_, err := os.Stat(dir)
			return errors.Is(err, fs.ErrNotExist)
		})
	}
	same(t, was)
}

// The demo, as a script runs it.
func TestDemo(t *testing.T) {
	needRoot(t)
	was := before(t)
	m := meshtest.Named(bin, "demo")
	out := m.Ctl(t, "local", "demo", "--duration", "12s", "-o", "json")
	var rows []struct {
		Name    string
		Meshed  string
		Success *float64
		RPS     *float64
		TLS     *float64
	}
	if err := json.Unmarshal(out, &rows); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, r := range rows {
		if r.Meshed != "1/1" {
			t.Errorf("%s: meshed %s", r.Name, r.Meshed)
		}
		if r.RPS == nil {
			t.Errorf("%s: no requests", r.Name)
			continue
		}
		if *r.RPS <= 0 || r.TLS == nil || *r.TLS != 1 || r.Success == nil || *r.Success < 0.5 {
			t.Errorf("%s: %s", r.Name, out)
		}
	}
	if len(rows) != 4 {
		t.Errorf("%d rows: %s", len(rows), out)
	}
	if _, err := os.Stat("/run/tunmesh-local/" + m.Name); err == nil {
		t.Error("the state folder is left")
	}
	same(t, was)
}
