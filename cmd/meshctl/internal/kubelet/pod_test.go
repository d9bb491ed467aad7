package kubelet

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/sandbox"
	"github.com/tunmesh/tunmesh/control/files"
	"github.com/tunmesh/tunmesh/control/inject"
)

func parse(t *testing.T, text string) *files.Set {
	t.Helper()
	s, err := files.Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := files.Check(s); err != nil {
		t.Fatal(err)
	}
	return s
}

const podText = `apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {a: "1", b: "2"}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {x: z}
---
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {l: v}, annotations: {tunmesh.io/inject: enabled}}
spec:
  securityContext: {fsGroup: 7, supplementalGroups: [8]}
  volumes:
    - {name: c, configMap: {name: c, items: [{key: a, path: sub/a, mode: 0600}]}}
    - {name: e, emptyDir: {sizeLimit: 1Mi}}
    - {name: opt, configMap: {name: none, optional: true}}
    - name: mix
      projected:
        sources:
          - {secret: {name: s}}
          - {downwardAPI: {items: [{path: l, fieldRef: {fieldPath: "metadata.labels['l']"}}]}}
          - {serviceAccountToken: {path: t, audience: aud, expirationSeconds: 700}}
  containers:
    - name: c
      image: x
      command: [run, $(A), $(B)$(C)]
      envFrom: [{configMapRef: {name: c}, prefix: C_}]
      env:
        - {name: A, value: "$(C_a)"}
        - {name: B, valueFrom: {secretKeyRef: {name: s, key: x}}}
        - {name: O, valueFrom: {secretKeyRef: {name: s, key: none, optional: true}}}
        - {name: M, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
      resources: {limits: {memory: 3Mi}}
      volumeMounts: [{name: c, mountPath: /c}, {name: c, mountPath: /f, subPath: sub/a}, {name: e, mountPath: /e, subPathExpr: "$(A)"}]
      securityContext: {runAsUser: 5, runAsGroup: 6, allowPrivilegeEscalation: false, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}
`

type fakeTokens struct{}

func (fakeTokens) Mint(p *corev1.Pod, audience string, ttl time.Duration) (string, error) {
	return fmt.Sprintf("%s %s %v", p.Name, audience, ttl), nil
}

func testPod(t *testing.T) (*corev1.Pod, *files.Set) {
	t.Helper()
	set := parse(t, podText)
	w := workloadOf(set.Templates()[0])
	p, err := w.pod("p", nil, inject.Config{Version: "v1", OptIn: true})
	if err != nil {
		t.Fatal(err)
	}
	return p, set
}

func TestPodObject(t *testing.T) {
	p, _ := testPod(t)
	if len(p.Spec.InitContainers) != 1 || p.Annotations["tunmesh.io/injected"] != "v1" {
		t.Errorf("the pod was not injected: %v", p.Annotations)
	}
	if len(p.UID) != 36 {
		t.Errorf("uid %q", p.UID)
	}
}

func TestEnvironment(t *testing.T) {
	p, set := testPod(t)
	c := &p.Spec.Containers[0]
	env, err := environment(p, c, set)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"A=1", "B=z", "C_a=1", "C_b=2", "M=3", "HOSTNAME=p"} {
		if !slices.Contains(env, want) {
			t.Errorf("no %s in %v", want, env)
		}
	}
	if i := slices.IndexFunc(env, func(s string) bool { return strings.HasPrefix(s, "O=") }); i >= 0 {
		t.Errorf("an optional variable that is not there is set: %s", env[i])
	}
	if got := fmt.Sprint(command(c, env)); got != "[run 1 z$(C)]" {
		t.Errorf("command %s", got)
	}
}

func TestVolumes(t *testing.T) {
	p, set := testPod(t)
	list, ttl, err := volumes(p, set, fakeTokens{})
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]sandbox.Volume{}
	for _, v := range list {
		byName[v.Name] = v
		if v.GID != 7 {
			t.Errorf("volume %s belongs to group %d", v.Name, v.GID)
		}
	}
	// The sidecar's token is asked for an hour, this one for 700 s.
	if ttl != 700*time.Second {
		t.Errorf("the shortest token lives %v", ttl)
	}
	if f := byName["c"].Files; len(f) != 1 || f[0].Path != "sub/a" || f[0].Mode != 0o600 || string(f[0].Data) != "1" {
		t.Errorf("c holds %+v", f)
	}
	if v := byName["e"]; v.Files != nil || v.MaxBytes != 1<<20 {
		t.Errorf("emptyDir is %+v", v)
	}
	if v := byName["opt"]; v.Files == nil || len(v.Files) != 0 {
		t.Errorf("an optional map that is not there is %+v", v)
	}
	mixed := map[string]string{}
	for _, f := range byName["mix"].Files {
		mixed[f.Path] = string(f.Data)
	}
	if fmt.Sprint(mixed) != "map[l:v t:p aud 11m40s x:z]" {
		t.Errorf("mix holds %v", mixed)
	}
	ms := mounts(&p.Spec.Containers[0], []string{"A=1"}, list)
	if len(ms) != 3 || !ms[0].ReadOnly || ms[0].File || !ms[1].File || ms[1].SubPath != "sub/a" || ms[2].ReadOnly || ms[2].SubPath != "1" {
		t.Errorf("mounts %+v", ms)
	}
}

func TestIdentity(t *testing.T) {
	p, _ := testPod(t)
	id, err := identity(p, &p.Spec.Containers[0])
	if err != nil {
		t.Fatal(err)
	}
	bind, _ := sandbox.ParseCap("NET_BIND_SERVICE")
	if id.UID != 5 || id.GID != 6 || fmt.Sprint(id.Groups) != "[8 7]" || id.Caps != bind || !id.NoNewPrivs || !id.Filter {
		t.Errorf("%+v", id)
	}
	side, err := identity(p, &p.Spec.InitContainers[0])
	if err != nil || side.UID != 2102 || side.Caps != 0 || !side.NoNewPrivs {
		t.Errorf("the sidecar is %+v, %v", side, err)
	}
	yes, zero, big := true, int64(0), int64(sandbox.IDs)
	for name, s := range map[string]*corev1.SecurityContext{
		"root that must not be": {RunAsNonRoot: &yes, RunAsUser: &zero},
		"user out of range":     {RunAsUser: &big},
		"unknown capability":    {Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"FLY"}}},
	} {
		if id, err := identity(p, &corev1.Container{SecurityContext: s}); err == nil {
			t.Errorf("%s: %+v", name, id)
		}
	}
}
