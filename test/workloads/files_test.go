package workloads

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/test/cluster"
)

// testPortForward: to the pod, to a Service, and to the sidecar's own port.
func testPortForward(m team) {
	m.forwarded("pod/web1", "8080", "/", "web1 127.0.0.1:")
	m.forwarded("service/web", "8080", "/", "web1 127.0.0.1:")
	m.forwarded("pod/web1", "4191", "/metrics", "tcp_open_total")
}

// forwarded asks through kubectl port-forward.
func (m team) forwarded(what, port, path, want string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), limit)
	defer cancel()
	cmd := m.KubectlCommand(ctx, "-n", namespace, "port-forward", what, ":"+port)
	var errs bytes.Buffer
	cmd.Stderr, cmd.WaitDelay = &errs, time.Second
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // killed
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	addr := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(line)
	if err != nil || addr == "" {
		m.t.Fatalf("port-forward %s: %v: %q %s", what, err, line, errs.String())
	}
	for range 2 { // a second connection over the first one's way
		resp, err := (&http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + addr + path)
		if err != nil {
			m.t.Errorf("%s %s: %v: %s", what, port, err, errs.String())
			return
		}
		raw, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(raw), want) {
			m.t.Errorf("%s %s: %s, %v: %.200s", what, port, resp.Status, err, raw)
		}
	}
}

// tools is a pod that has a tar: a copy of the test's program, which an init
// container of its own puts into a volume.
func tools(name string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[1]s}
spec:
  terminationGracePeriodSeconds: 2
  initContainers:
  - name: tools
    image: %[2]s
    args: [copy, /tools/tar]
    volumeMounts: [{name: tools, mountPath: /tools}]
  containers:
  - name: app
    image: %[2]s
    args: [serve]
    env: [{name: PATH, value: /tools}]
    volumeMounts: [{name: tools, mountPath: /tools}]
  volumes: [{name: tools, emptyDir: {}}]
`, name, cluster.TestImage)
}

// testCopy: a file goes into the pod and comes back.
func testCopy(m team) {
	m.make(tools("tools"))
	m.ready("pod/tools")
	want := make([]byte, 1<<20)
	if _, err := rand.Read(want); err != nil {
		m.t.Fatal(err)
	}
	dir := m.t.TempDir()
	there, back := filepath.Join(dir, "there"), filepath.Join(dir, "back")
	if err := os.WriteFile(there, want, 0o600); err != nil {
		m.t.Fatal(err)
	}
	m.kubectl("cp", there, "tools:/tools/file")
	m.kubectl("cp", "tools:/tools/file", back)
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, want) {
		m.t.Errorf("%d bytes went and %d came back: %v", len(want), len(got), err)
	}
}
