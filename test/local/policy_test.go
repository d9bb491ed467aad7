package local_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

type response struct {
	Status int    `json:"status"`
	Body   string `json:"body"`
	Error  string `json:"error"`
}

// policies are the six values, with who may send requests and bytes under each.
var policies = map[string]struct{ meshed, plain, outside bool }{
	"all-unauthenticated":     {true, true, true},
	"all-authenticated":       {true, false, false},
	"cluster-unauthenticated": {true, true, false},
	"cluster-authenticated":   {true, false, false},
	"deny":                    {false, false, false},
	"audit":                   {true, true, true},
}

// guarded is a pod of the test application under a policy. It becomes ready by
// a TCP probe and lives by an HTTP probe, whatever the policy.
func guarded(policy string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %[1]s
  namespace: default
  annotations: {tunmesh.io/inject: enabled, config.tunmesh.io/default-inbound-policy: %[1]s}
spec:
  containers:
    - name: app
      image: testapp
      command: [testapp, serve]
      readinessProbe: {tcpSocket: {port: 8081}, periodSeconds: 1}
      livenessProbe: {httpGet: {port: 8080, path: "/live?full=1"}, periodSeconds: 1, failureThreshold: 1}
`, policy)
}

// TestInboundPolicies asks pods under each policy as a pod of the mesh, as a pod
// without a sidecar, and as a machine outside of the cluster's networks, over
// IPv4 and IPv6, with requests and with bytes.
func TestInboundPolicies(t *testing.T) {
	var manifests []string
	for p := range policies {
		manifests = append(manifests, guarded(p))
	}
	m := meshtest.Up(t, bin, "policy", append(manifests, meshtest.Client("meshed", true, ""), meshtest.Client("plain", false, ""))...)
	up := time.Now()
	for p, want := range policies {
		pod := m.Pod(t, p)
		for _, ip := range pod.IPs {
			host := ip
			if strings.Contains(ip, ":") {
				host = "[" + ip + "]"
			}
			outside := stranger(t, m, ip)
			for who, ask := range map[string]struct {
				allowed bool
				run     func(...string) []byte
			}{
				"a meshed pod":       {want.meshed, func(args ...string) []byte { return m.Exec(t, "meshed", args...) }},
				"a pod without mesh": {want.plain, func(args ...string) []byte { return m.Exec(t, "plain", args...) }},
				"an outsider":        {want.outside, outside},
			} {
				r := decode[response](t, ask.run("testapp", "http", "http://"+host+":8080/other"))
				switch {
				case ask.allowed && r.Status != 200:
					t.Errorf("%s: %s may ask %s: %+v", p, who, ip, r)
				// 403, or refused at once where nobody at that address could be allowed.
				case !ask.allowed && r.Status != 403 && !strings.Contains(r.Error, "refused"):
					t.Errorf("%s: %s may not ask %s: %+v", p, who, ip, r)
				}
				b := decode[banner](t, ask.run("testapp", "banner", "-n", "1", host+":2525"))
				if (b.Error == "") != ask.allowed || (b.Banner != "") != ask.allowed {
					t.Errorf("%s: bytes of %s with %s: %+v, allowed %v", p, ip, who, b, ask.allowed)
				}
			}
		}
	}
	probed := decode[response](t, stranger(t, m, m.Pod(t, "deny").IP)("testapp", "http", "http://"+m.Pod(t, "deny").IP+":8080/live?full=1"))
	if probed.Status != 200 {
		t.Errorf("the pod's own probe under deny: %+v", probed)
	}
	if log := m.Ctl(t, "local", "logs", "audit", "-c", "mesh-proxy"); !bytes.Contains(log, []byte("judged")) {
		t.Errorf("audit noted nobody: %s", log)
	}
	// Liveness probes ran all the while; none may have failed for the policy.
	time.Sleep(time.Until(up.Add(4 * time.Second)))
	for _, pod := range m.Pods(t) {
		if pod.Restarts != 0 || !pod.Ready {
			t.Errorf("%s: ready %v, %d restarts", pod.Name, pod.Ready, pod.Restarts)
		}
	}
}

// stranger runs the test application on the mesh's node, where the way to ip
// now begins at an address that is in none of the cluster's networks.
func stranger(t *testing.T, m *meshtest.Mesh, ip string) func(...string) []byte {
	t.Helper()
	src, bits := "198.51.100.7", "/32"
	if strings.Contains(ip, ":") {
		src, bits = "2001:db8::7", "/128"
	}
	for _, args := range [][]string{
		{"ip", "address", "replace", src + bits, "dev", "br0", "nodad"},
		{"ip", "route", "replace", ip + bits, "dev", "br0", "src", src},
	} {
		if out, err := m.InNode(t, args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	return func(args ...string) []byte {
		t.Helper()
		out, err := m.InNode(t, append([]string{filepath.Join(string(bin), args[0])}, args[1:]...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
		return out
	}
}

func decode[T any](t *testing.T, raw []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(bytes.TrimSpace(raw), &v); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return v
}
