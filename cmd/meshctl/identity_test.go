package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tunmesh/tunmesh/control/identity"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// answer is what a pod says.
type answer struct {
	text string
	err  error
}

// DoRaw implements rest.ResponseWrapper.
func (a answer) DoRaw(context.Context) ([]byte, error) { return []byte(a.text), a.err }

// Stream implements rest.ResponseWrapper.
func (a answer) Stream(context.Context) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(a.text)), a.err
}

// talking is a cluster whose pods answer: answers has them by pod:port/path.
func talking(t *testing.T, answers map[string]string, objects ...runtime.Object) *cluster {
	t.Helper()
	c := clusterOf(t, objects...)
	c.kube.(*fake.Clientset).AddProxyReactor("pods", func(a clienttesting.Action) (bool, rest.ResponseWrapper, error) {
		get := a.(clienttesting.ProxyGetAction)
		key := get.GetName() + ":" + get.GetPort() + "/" + get.GetPath()
		text, ok := answers[key]
		if !ok {
			return true, answer{err: errors.New("nobody answers at " + key)}, nil
		}
		if strings.Contains(text, `"kind":"Status"`) {
			return true, answer{text: text, err: errors.New("unknown (get pods)")}, nil // as client-go has it
		}
		return true, answer{text: text}, nil
	})
	return c
}

func runs(name string, sidecar bool) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: name, Labels: map[string]string{"app": "web"}, Annotations: map[string]string{}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if sidecar {
		p.Annotations[annotation.Injected] = "v1"
	}
	return p
}

func TestIdentity(t *testing.T) {
	cert, _, err := identity.NewAnchor("cluster.local", time.Now()) // a certificate as good as any
	if err != nil {
		t.Fatal(err)
	}
	c := talking(t, map[string]string{"web-1:4191/certificate": string(cert), "web-2:4191/certificate": "nothing",
		"web-3:4191/certificate": `{"kind":"Status","message":"ann may not get pods/proxy"}`},
		runs("web-1", true), runs("web-2", true), runs("web-3", true), runs("plain", false))
	out := must(t, c, "identity", "web-1", "-n", "app")
	for _, want := range []string{"POD web-1 (1 of 1)\n\nCertificate:\n", "Issuer: CN=Tunmesh trust anchor of cluster.local", "Public-Key: (256 bit), curve P-256", "Certificate Sign, CRL Sign", "CA:TRUE"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if out := must(t, c, "identity", "web-1", "-n", "app", "-o", "json"); !strings.HasPrefix(out, `[{"namespace":"app","pod":"web-1",`) {
		t.Error(out)
	}
	for want, args := range map[string][]string{
		"sent no certificate":       {"web-2", "-n", "app"},
		"certificate: ann may not":  {"web-3", "-n", "app"},
		"pod app/plain has no side": {"plain", "-n", "app"},
		"no pod in empty has":       {"-n", "empty"},
		"not both":                  {"web-1", "-l", "app=web"},
		"find nobody":               {"nobody", "-n", "app"},
		"want text or json":         {"-o", "xml"},
	} {
		if code, out, errOut := on(t, c, append([]string{"identity"}, args...)...); code == exitOK || out != "" || !strings.Contains(errOut, want) {
			t.Errorf("%v: %d %q %q, want %q", args, code, out, errOut, want)
		}
	}
}

// Metrics are what the pods say, each under its name; pods without a sidecar are
// not asked for a sidecar's.
func TestDiagnosticsMetrics(t *testing.T) {
	control := runs("control-1", false)
	control.Namespace, control.Spec.Containers = "tunmesh", []corev1.Container{{Name: "control"}}
	control.Labels = map[string]string{"app.kubernetes.io/name": "mesh-control"}
	deploy := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "web"},
		Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	}
	c := talking(t, map[string]string{"web-1:4191/metrics": "a 1\n", "web-2:4191/metrics": "a 2\n", "control-1:9990/metrics": "b 3\n"},
		runs("web-2", true), runs("web-1", true), runs("plain", false), control, deploy)
	if got, want := must(t, c, "diagnostics", "proxy-metrics", "deploy/web", "-n", "app"), "#\n# POD web-1 (1 of 2)\n#\na 1\n#\n# POD web-2 (2 of 2)\n#\na 2\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := must(t, c, "dg", "cp-metrics"), "#\n# POD control-1 (1 of 1)\n# CONTAINER control \n#\nb 3\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	named := talking(t, map[string]string{"web-1:4191/metrics": "a{authority=\"web.shop\",tls=\"true\"} 1\n"}, runs("web-1", true), deploy)
	if got, want := must(t, named, "diagnostics", "proxy-metrics", "deploy/web", "-n", "app", "--obfuscate"), "#\n# POD web-1 (1 of 1)\n#\na{authority=\"082775a0\",tls=\"true\"} 1\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	// A pod that is over before its object is, and one that should answer.
	now := metav1.Now()
	ending, silent := runs("web-0", true), runs("web-3", true)
	ending.DeletionTimestamp, ending.Finalizers = &now, []string{"test/keep"}
	c = talking(t, map[string]string{"web-1:4191/metrics": "a 1\n"}, ending, runs("web-1", true), deploy)
	code, out, errOut := on(t, c, "diagnostics", "proxy-metrics", "deploy/web", "-n", "app")
	if code != exitOK || out != "#\n# POD web-1 (2 of 2)\n#\na 1\n" || !strings.Contains(errOut, "pod app/web-0 is being deleted") {
		t.Errorf("%d %q %q", code, out, errOut)
	}
	c = talking(t, map[string]string{"web-1:4191/metrics": "a 1\n", "web-3:4191/other": ""}, runs("web-0", true), runs("web-1", true), silent, deploy)
	code, out, errOut = on(t, c, "diagnostics", "proxy-metrics", "deploy/web", "-n", "app")
	if code == exitOK || out != "#\n# POD web-1 (2 of 3)\n#\na 1\n" || !strings.Contains(errOut, "app/web-0") || !strings.Contains(errOut, "app/web-3") {
		t.Errorf("%d %q %q", code, out, errOut)
	}
	c = talking(t, nil, runs("plain", false), deploy)
	for want, args := range map[string][]string{
		"no pod to ask":         {"proxy-metrics", "po/plain", "-n", "app"},
		"unknown resource type": {"proxy-metrics", "thing/web"},
		"want po, deploy":       {"proxy-metrics", "svc/web"},
		"find sts/web":          {"proxy-metrics", "sts/web"},
		"want some time":        {"controller-metrics", "--wait", "0s"},
	} {
		if code, _, errOut := on(t, c, append([]string{"diagnostics"}, args...)...); code == exitOK || !strings.Contains(errOut, want) {
			t.Errorf("%v: %d %q, want %q", args, code, errOut, want)
		}
	}
}
