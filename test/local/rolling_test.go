package local_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

// TestRollingChangeLosesNothing replaces every pod of a Deployment in order,
// under load of both kinds. What was asked is answered: by the old pods while
// they drain, by the new ones after.
func TestRollingChangeLosesNothing(t *testing.T) {
	server := meshtest.Server("server", 2)
	m := meshtest.Up(t, bin, "rolling", server, meshtest.Client("client", true, ""), meshtest.Client("other", true, ""))
	old := map[string]bool{}
	for _, p := range m.Pods(t) {
		old[p.Name] = true
	}
	type result struct {
		out []byte
		err error
	}
	web, rpc := make(chan result, 1), make(chan result, 1)
	go func() {
		out, err := m.TryExec(time.Minute, "client", "testapp", "load", "--rps", "100", "--duration", "15s", "--parallel", "8", "http://server/")
		web <- result{out, err}
	}()
	go func() {
		out, err := m.TryExec(time.Minute, "other", "testapp", "grpc", "--duration", "15s", "--every", "50ms", "--parallel", "8", "server:8081")
		rpc <- result{out, err}
	}()
	time.Sleep(3 * time.Second)
	file := filepath.Join(t.TempDir(), "changed.yaml")
	changed := strings.Replace(server, "tunmesh.io/inject: enabled", "tunmesh.io/inject: enabled, example.com/changed: \"1\"", 1)
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Ctl(t, "local", "apply", "-f", file)
	meshtest.Eventually(t, 30*time.Second, "all of the server's pods are new", func() bool {
		fresh, left := 0, 0
		for _, p := range m.Pods(t) {
			switch {
			case !strings.HasPrefix(p.Name, "server-"):
			case old[p.Name]:
				left++
			case p.Ready:
				fresh++
			}
		}
		return fresh == 2 && left == 0
	})
	for what, c := range map[string]chan result{"http": web, "grpc": rpc} {
		r := <-c
		if r.err != nil {
			t.Fatalf("%s: %v: %s", what, r.err, r.out)
		}
		s := decode[spread](t, r.out)
		t.Logf("%s: %d answered by %d pods, failed: %v", what, s.calls(), len(s.Pods), s.Errors)
		if s.failed() > 0 || s.calls() < 700 {
			t.Errorf("%s: %d answered, failed: %v", what, s.calls(), s.Errors)
		}
		if len(s.Pods) != 4 {
			t.Errorf("%s: answered by %v, want two old and two new pods", what, s.Pods)
		}
	}
	// Of the old pods nothing stays on the node: two namespaces for each of four pods.
	holder, err := m.HolderPID()
	if err != nil {
		t.Fatal(err)
	}
	var left []os.DirEntry
	meshtest.Eventually(t, 15*time.Second, "the old pods' namespaces are gone", func() bool {
		left, err = os.ReadDir(fmt.Sprintf("/proc/%d/root/run/netns", holder))
		return err == nil && len(left) <= 8
	})
	if len(left) != 8 {
		t.Errorf("namespaces %v, want two for each of four pods", left)
	}
}
