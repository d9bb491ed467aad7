package admission

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/tunmesh/tunmesh/control/inject"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "write the golden files anew")

// server is one whose namespaces are given, and what it noticed.
func server(t *testing.T, change func(*Config), namespaces map[string]map[string]string) (*Server, *[]Notice) {
	t.Helper()
	var said []Notice
	cfg := Config{
		Inject: inject.Config{Version: "v1.2.3", OptIn: true},
		Namespace: func(_ context.Context, name string) (map[string]string, error) {
			if name == "broken" {
				return nil, errors.New("nobody knows")
			}
			return namespaces[name], nil
		},
		Notice: func(n Notice) { said = append(said, n) },
	}
	if change != nil {
		change(&cfg)
	}
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s, &said
}

// ask puts a pod, as JSON, to the server as the API server does.
func ask(t *testing.T, s *Server, namespace string, pod []byte) *admissionv1.AdmissionResponse {
	t.Helper()
	body, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID: "q1", Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}, Operation: admissionv1.Create,
			Namespace: namespace, Object: runtime.RawExtension{Raw: pod},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	w := post(s, body)
	if w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(w.Body.Bytes(), &review); err != nil {
		t.Fatal(err)
	}
	if review.Response == nil || review.Response.UID != "q1" || !review.Response.Allowed || review.Request != nil || review.Kind != "AdmissionReview" {
		t.Fatalf("answer %+v", review)
	}
	return review.Response
}

func post(s *Server, body []byte) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, Path, bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// patched is a pod after the answer.
func patched(t *testing.T, pod []byte, resp *admissionv1.AdmissionResponse) []byte {
	t.Helper()
	if len(resp.Patch) == 0 {
		return pod
	}
	if resp.PatchType == nil || *resp.PatchType != admissionv1.PatchTypeJSONPatch {
		t.Fatalf("patch type %v", resp.PatchType)
	}
	p, err := jsonpatch.DecodePatch(resp.Patch)
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Apply(pod)
	if err != nil {
		t.Fatalf("patch %s: %v", resp.Patch, err)
	}
	return out
}

func input(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".in.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	pod, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// TestGolden: pods as the API server sends them, and as they come out.
func TestGolden(t *testing.T) {
	inputs, _ := filepath.Glob("testdata/*.in.yaml")
	if len(inputs) < 3 {
		t.Fatalf("%d inputs", len(inputs))
	}
	for _, in := range inputs {
		base := strings.TrimSuffix(filepath.Base(in), ".in.yaml")
		t.Run(base, func(t *testing.T) {
			s, said := server(t, nil, map[string]map[string]string{"shop": {annotation.Inject: "enabled", annotation.ProxyLogLevel: "debug"}})
			pod := input(t, base)
			resp := ask(t, s, "shop", pod)
			out, err := yaml.JSONToYAML(patched(t, pod, resp))
			if err != nil {
				t.Fatal(err)
			}
			about, err := yaml.Marshal(map[string]any{"warnings": resp.Warnings, "events": *said})
			if err != nil {
				t.Fatal(err)
			}
			got := append(append(out, "---\n"...), about...)
			path := filepath.Join("testdata", base+".out.yaml")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
			// Asked again, as after another webhook's change, there is nothing to do.
			if again := ask(t, s, "shop", patched(t, pod, resp)); len(again.Patch) > 0 {
				t.Errorf("a second time: %s", again.Patch)
			}
		})
	}
}

// TestPatchIsInjection: the patch makes of the pod's JSON what injection makes of
// its value, and leaves fields that we do not know alone.
func TestPatchIsInjection(t *testing.T) {
	inputs, _ := filepath.Glob("testdata/*.in.yaml")
	for _, in := range inputs {
		pod := input(t, strings.TrimSuffix(filepath.Base(in), ".in.yaml"))
		var want corev1.Pod
		if err := json.Unmarshal(pod, &want); err != nil {
			t.Fatal(err)
		}
		if want.Annotations[annotation.Injected] != "" {
			continue
		}
		ann, reason, _ := inject.Pod(want.Annotations, &want.Spec, inject.Config{Version: "v1.2.3"})
		if reason != "" {
			continue
		}
		want.Annotations = ann
		s, _ := server(t, func(c *Config) { c.Inject.OptIn = false }, nil)
		var got corev1.Pod
		if err := json.Unmarshal(patched(t, pod, ask(t, s, "x", pod)), &got); err != nil {
			t.Fatal(err)
		}
		a, _ := json.Marshal(want)
		b, _ := json.Marshal(got)
		if !bytes.Equal(a, b) {
			t.Errorf("%s: %s", in, cmp.Diff(string(a), string(b)))
		}
	}
}

func TestAnswers(t *testing.T) {
	enabled := map[string]string{annotation.Inject: "enabled"}
	pod := func(annotations map[string]string, change func(*corev1.Pod)) []byte {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "web-", Annotations: annotations}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}}
		if change != nil {
			change(&p)
		}
		b, _ := json.Marshal(p)
		return b
	}
	for _, tc := range []struct {
		name      string
		namespace string
		pod       []byte
		injected  bool
		counted   string
		warning   string
		linkerd   bool
	}{
		{name: "nobody asked", namespace: "other", pod: pod(nil, nil), counted: "injection_enable_annotation_absent"},
		{name: "the namespace asked", namespace: "shop", pod: pod(nil, nil), injected: true},
		{name: "the pod asked", namespace: "other", pod: pod(enabled, nil), injected: true},
		{name: "the pod forbids", namespace: "shop", pod: pod(map[string]string{annotation.Inject: "disabled"}, nil), counted: "injection_disable_annotation_present"},
		{name: "host network", namespace: "shop", pod: pod(nil, func(p *corev1.Pod) { p.Spec.HostNetwork = true }), counted: "host_network_enabled", warning: "host_network_enabled"},
		{name: "malformed", namespace: "shop", pod: pod(map[string]string{annotation.ProxyQueues: "7"}, nil), counted: "invalid_config_annotation", warning: annotation.ProxyQueues},
		{name: "unknown", namespace: "shop", pod: pod(map[string]string{"config.tunmesh.io/x": "7"}, nil), counted: "invalid_config_annotation", warning: "config.tunmesh.io/x"},
		{name: "inject is malformed", namespace: "other", pod: pod(map[string]string{annotation.Inject: "yes"}, nil), counted: "invalid_inject_annotation_at_workload", warning: "invalid_inject"},
		{name: "Linkerd's word", namespace: "linkerd", pod: pod(nil, nil), injected: true},
		{name: "Linkerd's word, while Linkerd is there", namespace: "linkerd", pod: pod(nil, nil), linkerd: true, counted: "injection_enable_annotation_absent"},
		{name: "Linkerd's proxy", namespace: "shop", pod: pod(nil, func(p *corev1.Pod) { p.Spec.Containers[0].Name = "linkerd-proxy" }), counted: "linkerd_proxy_present", warning: "linkerd_proxy_present"},
		{name: "Linkerd's image", namespace: "shop", pod: pod(map[string]string{"config.linkerd.io/proxy-image": "x"}, nil), injected: true, warning: "config.linkerd.io/proxy-image"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, said := server(t, func(c *Config) { c.Linkerd = func() bool { return tc.linkerd } },
				map[string]map[string]string{"shop": enabled, "linkerd": {"linkerd.io/inject": "enabled"}})
			resp := ask(t, s, tc.namespace, tc.pod)
			if (len(resp.Patch) > 0) != tc.injected {
				t.Errorf("patch %s", resp.Patch)
			}
			asked, answers := s.Counts()
			if asked != 1 || len(answers) != 1 || answers[Answer{tc.namespace, "pod", tc.counted}] != 1 {
				t.Errorf("counted %d: %v", asked, answers)
			}
			if tc.warning == "" {
				if len(resp.Warnings)+len(*said) > 0 {
					t.Errorf("said %q, %+v", resp.Warnings, *said)
				}
				return
			}
			if len(resp.Warnings) != 1 || !strings.Contains(resp.Warnings[0], tc.warning) {
				t.Errorf("warnings %q", resp.Warnings)
			}
			if len(*said) != 1 || !strings.Contains((*said)[0].Message, tc.warning) || (*said)[0].About.Name != "web-" || (*said)[0].About.Namespace != tc.namespace {
				t.Errorf("notices %+v", *said)
			}
		})
	}
}

// A pod that says that it is injected, and is not, does not come through with it.
func TestNobodyElseMarks(t *testing.T) {
	s, _ := server(t, nil, nil)
	pod := []byte(`{"metadata":{"name":"a","annotations":{"tunmesh.io/injected":"v1","x/y~z":"1"}},"spec":{"containers":[{"name":"app"}],"future":1}}`)
	out := patched(t, pod, ask(t, s, "other", pod))
	if want := `{"metadata":{"annotations":{"x/y~z":"1"},"name":"a"},"spec":{"containers":[{"name":"app"}],"future":1}}`; string(out) != want {
		t.Errorf("%s, want %s", out, want)
	}
}

func TestNoticesAreAboutTheOwner(t *testing.T) {
	s, said := server(t, nil, nil)
	ask(t, s, "shop", []byte(`{"metadata":{"generateName":"web-","annotations":{"tunmesh.io/inject":"enabled"},"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web","uid":"u","controller":true}]},"spec":{"hostNetwork":true,"containers":[{"name":"app"}]}}`))
	want := corev1.ObjectReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Namespace: "shop", Name: "web", UID: "u"}
	if len(*said) != 1 || (*said)[0].About != want || (*said)[0].Reason != Skipped {
		t.Errorf("%+v", *said)
	}
}

func TestRefusedQuestions(t *testing.T) {
	s, _ := server(t, nil, nil)
	review := func(ns, operation, kind, object string) string {
		return `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"q1","namespace":"` + ns + `","operation":"` + operation + `","kind":{"version":"v1","kind":"` + kind + `"},"object":` + object + `}}`
	}
	for name, tc := range map[string]struct {
		body string
		want int
	}{
		"no JSON":                {"x", http.StatusBadRequest},
		"no request":             {`{"apiVersion":"admission.k8s.io/v1"}`, http.StatusBadRequest},
		"another version":        {strings.Replace(review("a", "CREATE", "Pod", "{}"), "io/v1", "io/v1beta1", 1), http.StatusBadRequest},
		"no pod":                 {review("a", "CREATE", "Pod", "[]"), http.StatusInternalServerError},
		"an unknown namespace":   {review("broken", "CREATE", "Pod", "{}"), http.StatusInternalServerError},
		"too long":               {strings.Repeat(" ", maxReview+1), http.StatusBadRequest},
		"an update is no matter": {review("a", "UPDATE", "Pod", "{}"), http.StatusOK},
		"nor another kind":       {review("a", "CREATE", "Service", "[]"), http.StatusOK},
	} {
		if w := post(s, []byte(tc.body)); w.Code != tc.want {
			t.Errorf("%s: %d %s, want %d", name, w.Code, w.Body, tc.want)
		}
	}
	for name, r := range map[string]*http.Request{
		"GET":  httptest.NewRequest(http.MethodGet, Path, nil),
		"path": httptest.NewRequest(http.MethodPost, "/", nil),
		"type": httptest.NewRequest(http.MethodPost, Path, nil),
	} {
		w := httptest.NewRecorder()
		if s.ServeHTTP(w, r); w.Code < 400 {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
}

func FuzzReview(f *testing.F) {
	f.Add([]byte(`{"metadata":{"annotations":{"tunmesh.io/inject":"enabled"}},"spec":{"containers":[{"name":"a"}],"initContainers":[{"name":"b"}],"volumes":[{"name":"c"}]}}`))
	f.Add([]byte(`{"metadata":{"annotations":{"tunmesh.io/injected":"1"}}}`))
	f.Fuzz(func(t *testing.T, pod []byte) {
		s, err := NewServer(Config{Namespace: func(context.Context, string) (map[string]string, error) { return nil, nil }})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.Review(t.Context(), &admissionv1.AdmissionRequest{
			Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}, Operation: admissionv1.Create, Object: runtime.RawExtension{Raw: pod},
		})
		if err == nil && !resp.Allowed {
			t.Error("refused")
		}
	})
}

// A pod that is only tried leaves nothing behind, so the webhook may be asked
// about it; who tries still hears what would be said.
func TestDryRunsLeaveNoEvents(t *testing.T) {
	pod := []byte(`{"metadata":{"name":"web","annotations":{"tunmesh.io/inject":"enabled"}},"spec":{"hostNetwork":true,"containers":[{"name":"web"}]}}`)
	for _, dry := range []bool{true, false} {
		s, said := server(t, nil, nil)
		resp, err := s.Review(t.Context(), &admissionv1.AdmissionRequest{
			Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}, Operation: admissionv1.Create, Namespace: "app", DryRun: &dry,
			Object: runtime.RawExtension{Raw: pod},
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.Warnings) != 1 || len(*said) == 0 != dry {
			t.Errorf("dry run %v: warnings %v, events %v", dry, resp.Warnings, *said)
		}
	}
}
