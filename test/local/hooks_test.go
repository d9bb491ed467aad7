package local_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

// hooked is a pod of the test application with a postStart hook.
func hooked(name, hook string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: default, annotations: {tunmesh.io/inject: enabled}}
spec:
  containers:
    - name: app
      image: testapp
      command: [testapp, serve]
      lifecycle: {postStart: {exec: {command: %s}}}
`, name, hook)
}

// TestHooks: a container whose postStart hook fails is ended and started again, and
// is not ready meanwhile; one whose hook succeeds is left alone.
func TestHooks(t *testing.T) {
	m := meshtest.Up(t, bin, "hooks", hooked("good", "[testapp, banner, -n, '1', 'localhost:2525']"))
	file := filepath.Join(t.TempDir(), "broken.yaml")
	if err := os.WriteFile(file, []byte(hooked("broken", "[testapp, no-such-thing]")), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Ctl(t, "local", "apply", "-f", file)
	meshtest.Eventually(t, 60*time.Second, "the container whose hook fails is started again", func() bool {
		for _, p := range m.Pods(t) {
			if p.Name == "broken" && p.Ready {
				t.Error("it is ready")
			}
			if p.Name == "broken" && p.Restarts > 0 {
				return true
			}
		}
		return false
	})
	if p := m.Pod(t, "good"); p.Restarts != 0 || !p.Ready {
		t.Errorf("the other: %+v", p)
	}
}
