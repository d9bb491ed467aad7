package lifecycle

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

const configured = `apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {greeting: hello, file.txt: one}
---
apiVersion: v1
kind: Secret
metadata: {name: sec}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Pod
metadata: {name: full, labels: {role: test}}
spec:
  volumes:
    - {name: conf, configMap: {name: conf}}
    - {name: sec, secret: {secretName: sec, defaultMode: 0400}}
    - {name: scratch, emptyDir: {}}
    - {name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  initContainers:
    - {name: first, image: x, command: [sh, -c, "echo prepared > /scratch/by-init"], volumeMounts: [{name: scratch, mountPath: /scratch}]}
  containers:
    - name: c
      image: x
      workingDir: /scratch
      command: [sh, -c]
      args: ["echo '$(GREETING) from $(POD) $(UNKNOWN)'; exec sleep 1000"]
      env:
        - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: GREETING, valueFrom: {configMapKeyRef: {name: conf, key: greeting}}}
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: sec, key: password}}}
      volumeMounts:
        - {name: conf, mountPath: /etc/app}
        - {name: sec, mountPath: /secret}
        - {name: scratch, mountPath: /scratch}
        - {name: info, mountPath: /info}
    - {name: other, image: x, command: [sleep, "1000"], volumeMounts: [{name: scratch, mountPath: /s}]}
`

func TestConfiguration(t *testing.T) {
	needRoot(t)
	m := meshtest.Up(t, bin, "conf", configured)
	for script, want := range map[string]string{
		"pwd":                               "/scratch",
		"cat by-init":                       "prepared",
		"cat /etc/app/file.txt":             "one",
		"cat /secret/password":              "hunter2",
		"stat -c %a /secret/password":       "400",
		"echo $POD $PASSWORD":               "full hunter2",
		"cat /info/labels":                  `role="test"`,
		"hostname":                          "full",
		"test $IP = $(hostname -i) && echo": "",
		"touch /etc/app/x || echo read-only 2>/dev/null": "read-only",
	} {
		out, err := m.TryExec(10*time.Second, "full", "sh", "-c", script)
		if got := strings.TrimSpace(string(out)); got != want {
			t.Errorf("%s: got %q, want %q (%v)", script, got, want, err)
		}
	}
	if got := string(m.Ctl(t, "local", "logs", "full")); got != "hello from full $(UNKNOWN)\n" {
		t.Errorf("logs: %q", got)
	}
	m.Exec(t, "full", "touch", "/scratch/shared")
	if got := string(m.Ctl(t, "local", "exec", "full", "-c", "other", "--", "ls", "/s")); got != "by-init\nshared\n" {
		t.Errorf("the other container sees %q", got)
	}
	// A changed ConfigMap reaches the running pod.
	m.Ctl(t, "local", "apply", "-f", write(t, strings.Replace(configured, "file.txt: one", "file.txt: two", 1)))
	meshtest.Eventually(t, 10*time.Second, "the new file is there", func() bool {
		return string(m.Exec(t, "full", "cat", "/etc/app/file.txt")) == "two"
	})
	if p := m.Pod(t, "full"); p.Restarts != 0 {
		t.Errorf("%d restarts", p.Restarts)
	}
}

func TestExecAndForward(t *testing.T) {
	needRoot(t)
	m := meshtest.Up(t, bin, "exec", `apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
    - name: c
      image: x
      command: [testapp, serve]
      readinessProbe: {tcpSocket: {port: 8081}, periodSeconds: 1}
---
`+meshtest.Service("web", "web"))
	c := m.Command(t.Context(), "local", "exec", "web", "--", "sh", "-c", "cat; echo err >&2; exit 7")
	c.Stdin = strings.NewReader("through")
	out, err := c.Output()
	exit, ok := err.(*exec.ExitError)
	if !ok || exit.ExitCode() != 7 || string(out) != "through" || string(exit.Stderr) != "err\n" {
		t.Errorf("exec: %q, %v", out, err)
	}
	for _, bad := range [][]string{{"nobody", "--", "true"}, {"web", "-c", "none", "--", "true"}, {"web", "--", "no-such-program"}} {
		if out, err := m.Command(t.Context(), append([]string{"local", "exec"}, bad...)...).CombinedOutput(); err == nil {
			t.Errorf("exec %v succeeded: %s", bad, out)
		}
	}
	// On a terminal the command has one of its own, of the same size.
	tty := m.Command(t.Context(), "local", "exec", "web", "--", "sh")
	master, err := pty.StartWithSize(tty, &pty.Winsize{Rows: 33, Cols: 77})
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if _, err := master.WriteString("sleep 0.3; stty size; tty; exit 9\n"); err != nil {
		t.Fatal(err)
	}
	screen, _ := io.ReadAll(master) // ends with EIO
	if err := tty.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 9 {
		t.Errorf("exec on a terminal: %v", err)
	}
	if s := string(screen); !strings.Contains(s, "33 77") || !strings.Contains(s, "/dev/pts/") {
		t.Errorf("the terminal showed %q", s)
	}
	for target, want := range map[string]string{"svc/nobody": "there is no Service nobody", "svc/web": "port 9"} {
		var said bytes.Buffer
		f := m.Command(t.Context(), "local", "port-forward", target, ":9")
		f.Stderr = &said
		if err := f.Run(); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(said.String(), want) {
			t.Errorf("port-forward to a wrong place: %v: %s, want %q", err, &said, want)
		}
	}
	for _, target := range []string{"svc/web", "web"} {
		port := map[string]string{"svc/web": "7000", "web": "7000"}[target]
		f := m.Command(t.Context(), "local", "port-forward", target, ":"+port)
		said, err := f.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(said).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		addr := strings.Fields(line)[2]
		conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Write([]byte("ping\n")); err != nil {
			t.Fatal(err)
		}
		back, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || back != "ping\n" {
			t.Errorf("%s: got %q, %v", target, back, err)
		}
		_ = conn.Close()
		_ = f.Process.Signal(syscall.SIGINT)
		if err := f.Wait(); err != nil {
			t.Errorf("port-forward ended with %v", err)
		}
	}
}

// What an exec writes to ends with it, also when pods are started meanwhile.
func TestExecWhilePodsStart(t *testing.T) {
	needRoot(t)
	m := meshtest.Up(t, bin, "leak", sleeper)
	c := m.Command(t.Context(), "local", "exec", m.Pod(t, "sleeper").Name, "--", "sh", "-c", "sleep 3; echo done")
	r, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	m.Ctl(t, "local", "apply", "-f", write(t, strings.Replace(sleeper, "replicas: 2", "replicas: 5", 1)))
	ended := make(chan string, 1)
	go func() {
		out, _ := io.ReadAll(r)
		ended <- string(out)
	}()
	select {
	case out := <-ended:
		if out != "done\n" {
			t.Errorf("it wrote %q", out)
		}
	case <-time.After(20 * time.Second):
		t.Error("its output does not end")
	}
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}

// status reads a pod's status as the control plane does.
func status(t *testing.T, m *meshtest.Mesh, namespace, name string) map[string]any {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/run/tunmesh-local/%s/pods/%s_%s.json", m.Name, namespace, name))
	if err != nil {
		return nil
	}
	var p struct {
		Status map[string]any `json:"status"`
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		t.Fatalf("a pod's file is not whole: %v: %s", err, raw)
	}
	return p.Status
}

func TestRestarts(t *testing.T) {
	needRoot(t)
	m := meshtest.Up(t, bin, "again", `apiVersion: v1
kind: Pod
metadata: {name: steady}
spec: {containers: [{name: c, image: x, command: [sleep, "1000"]}]}
`)
	m.Ctl(t, "local", "apply", "-f", write(t, `apiVersion: v1
kind: Pod
metadata: {name: crasher}
spec: {containers: [{name: c, image: x, command: [sh, -c, "echo run; exit 3"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: once}
spec: {restartPolicy: Never, containers: [{name: c, image: x, command: [sh, -c, "exit 4"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: sick}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: c
      image: x
      command: [sh, -c, "touch /tmp/healthy; trap exit TERM; while true; do sleep 0.1; done"]
      livenessProbe: {exec: {command: [test, -e, /tmp/healthy]}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: slow}
spec:
  containers:
    - name: c
      image: x
      command: [sleep, "1000"]
      readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1, failureThreshold: 1}
`))
	row := func(name string) meshtest.Pod { return m.Pod(t, name) }
	meshtest.Eventually(t, 20*time.Second, "the crasher started several times", func() bool { return row("crasher").Restarts >= 4 })
	meshtest.Eventually(t, 20*time.Second, "the crasher backs off", func() bool { return row("crasher").Status == "CrashLoopBackOff" })
	if n := strings.Count(string(m.Ctl(t, "local", "logs", "crasher")), "run\n"); n < 4 {
		t.Errorf("the log has %d runs", n)
	}
	meshtest.Eventually(t, 10*time.Second, "one that ran once has failed", func() bool { return row("once").Status == "Failed" })

	meshtest.Eventually(t, 10*time.Second, "the sick one is well", func() bool { return row("sick").Ready })
	m.Exec(t, "sick", "rm", "/tmp/healthy")
	meshtest.Eventually(t, 10*time.Second, "the sick one was started again", func() bool { p := row("sick"); return p.Restarts == 1 && p.Ready })

	if row("slow").Ready {
		t.Error("a pod is ready before its probe says so")
	}
	m.Exec(t, "slow", "touch", "/tmp/ready")
	meshtest.Eventually(t, 5*time.Second, "the slow one is ready", func() bool { return row("slow").Ready })
	m.Exec(t, "slow", "rm", "/tmp/ready")
	meshtest.Eventually(t, 5*time.Second, "the slow one is not ready any more", func() bool { return !row("slow").Ready })

	// A whole sandbox dies: the pod comes back, as the same pod.
	uidBefore := status(t, m, "default", "steady")["startTime"]
	old := row("steady")
	parent := parentOf(t, old.PIDs["app"])
	if err := syscall.Kill(parent, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	meshtest.Eventually(t, 10*time.Second, "the pod is back", func() bool {
		p := row("steady")
		return p.Ready && p.PIDs["app"] != 0 && p.PIDs["app"] != old.PIDs["app"]
	})
	if now := status(t, m, "default", "steady")["startTime"]; now != uidBefore {
		t.Errorf("another pod is in its place: began %v, before %v", now, uidBefore)
	}
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "PPid:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

const rolling = `apiVersion: apps/v1
kind: Deployment
metadata: {name: roll}
spec:
  replicas: 3
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  selector: {matchLabels: {app: roll}}
  template:
    metadata: {labels: {app: roll}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: c
          image: x
          command: [sh, -c, "trap exit TERM; while true; do sleep 0.1; done"]
          env: [{name: VERSION, value: one}]
          readinessProbe: {exec: {command: [sh, -c, "sleep 0.3"]}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: set}
spec: {clusterIP: None, selector: {app: set}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: set}
spec:
  serviceName: set
  replicas: 2
  selector: {matchLabels: {app: set}}
  template:
    metadata: {labels: {app: set}}
    spec: {containers: [{name: c, image: x, command: [sleep, "1000"]}]}
`

func TestRollingChange(t *testing.T) {
	needRoot(t)
	m := meshtest.Up(t, bin, "roll", rolling)
	count := func() (ready, total int) {
		for _, p := range m.Pods(t) {
			if strings.HasPrefix(p.Name, "roll-") && p.Status != "Terminating" {
				total++
				if p.Ready {
					ready++
				}
			}
		}
		return ready, total
	}
	old := map[string]bool{}
	for _, p := range m.Pods(t) {
		old[p.Name] = true
	}
	m.Ctl(t, "local", "apply", "-f", write(t, strings.Replace(rolling, "value: one", "value: two", 1)))
	meshtest.Eventually(t, 30*time.Second, "all pods are new", func() bool {
		ready, total := count()
		if ready < 3 {
			// One pod is asked after the other: the new one may have become ready
			// after it was asked, and an old one left before it was.
			ready, total = count()
		}
		if ready < 3 || total > 4 {
			t.Fatalf("%d of %d pods are ready while they change", ready, total)
		}
		fresh := 0
		for _, p := range m.Pods(t) {
			if strings.HasPrefix(p.Name, "roll-") && p.Ready && !old[p.Name] {
				fresh++
			}
		}
		return fresh == 3 && total == 3
	})
	if !old["set-0"] || !old["set-1"] {
		t.Errorf("a StatefulSet's pods are called %v", old)
	}
	out := string(m.Exec(t, "set-0", "getent", "ahostsv4", "set-1.set"))
	if want := m.Pod(t, "set-1").IP; !strings.Contains(out, want) {
		t.Errorf("set-1.set resolves to %q, want %s", out, want)
	}
}

// What cannot be run is refused before anything is started or changed.
func TestRefusals(t *testing.T) {
	needRoot(t)
	pod := func(spec string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: " + spec + "\n"
	}
	m := meshtest.Up(t, bin, "bad", pod(`{containers: [{name: c, image: x, command: [sleep, "1000"]}]}`))
	for name, c := range map[string]struct{ manifest, want string }{
		"unknown field":    {pod(`{containers: [{name: c, image: x, comand: [x]}]}`), "comand"},
		"no command":       {pod(`{containers: [{name: c, image: x}]}`), "add command"},
		"host network":     {pod(`{hostNetwork: true, containers: [{name: c, image: x, command: [x]}]}`), "hostNetwork"},
		"privileged":       {pod(`{containers: [{name: c, image: x, command: [x], securityContext: {privileged: true}}]}`), "privileged"},
		"no such secret":   {pod(`{volumes: [{name: v, secret: {secretName: gone}}], containers: [{name: c, image: x, command: [x]}]}`), `no Secret "gone"`},
		"cluster IP taken": {"apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 192.0.2.1, ports: [{port: 80}]}\n", "none of the service ranges"},
		"unknown cap":      {pod(`{containers: [{name: c, image: x, command: [x], securityContext: {capabilities: {add: [FLY]}}}]}`), `unknown capability "FLY"`},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := m.Command(t.Context(), "local", "apply", "-f", write(t, c.manifest)).CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.want) {
				t.Errorf("got %v, %s; want an error with %q", err, out, c.want)
			}
		})
	}
	if p := m.Pod(t, "bad"); !p.Ready || p.Restarts != 0 {
		t.Errorf("a refused change touched the pod: %+v", p)
	}
}

// Sidecars end last: an app may still talk while it ends.
func TestOrderOfTheEnd(t *testing.T) {
	needRoot(t)
	trap := func(name string) string {
		return fmt.Sprintf(`command: [sh, -c, "trap 'sleep 0.3; date +%%s%%N >/out/%s; exit' TERM; while true; do sleep 0.05; done"], volumeMounts: [{name: out, mountPath: /out}]`, name)
	}
	m := meshtest.Up(t, bin, "order", `apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  volumes: [{name: out, emptyDir: {}}]
  initContainers:
    - {name: side1, image: x, restartPolicy: Always, `+trap("side1")+`}
    - {name: side2, image: x, restartPolicy: Always, `+trap("side2")+`}
  containers:
    - {name: app, image: x, `+trap("app")+`}
  terminationGracePeriodSeconds: 10
`)
	pid := m.Pod(t, "p").PIDs["app"]
	dir, err := os.Open(fmt.Sprintf("/proc/%d/root/out", pid)) // outlives the container
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	m.Ctl(t, "local", "delete", "pod/p")
	meshtest.Eventually(t, 15*time.Second, "the pod is gone", func() bool { return len(m.Pods(t)) == 0 })
	at := func(name string) int64 {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name))
		if err != nil {
			return 0
		}
		n, _ := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
		return n
	}
	app, s1, s2 := at("app"), at("side1"), at("side2")
	if app == 0 || app >= s2 || s2 >= s1 {
		t.Errorf("ended at app %d, second sidecar %d, first sidecar %d: want this order", app, s2, s1)
	}
}
