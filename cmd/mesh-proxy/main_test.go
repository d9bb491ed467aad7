package main

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/annotation"
	"github.com/tunmesh/tunmesh/internal/handover"
	"github.com/tunmesh/tunmesh/tunproxy/accesslog"
)

// forbidden are packages that would cost the sidecar resident memory, or that
// it has no business with. Each has its reason.
var forbidden = map[string]string{ //nolint:gochecknoglobals // a table
	"net/http":                                          "4 MB of binary for what h1 and h2 do",
	"google.golang.org/grpc":                            "rpc speaks to the control plane",
	"google.golang.org/protobuf/proto":                  "reflection and registries; rpc/wire decodes by hand",
	"google.golang.org/protobuf/reflect":                "the same",
	"github.com/prometheus/client_golang":               "telemetry writes the text format",
	"k8s.io/":                                           "the sidecar knows no Kubernetes API",
	"github.com/spf13/cobra":                            "no subcommands",
	"text/template":                                     "disables dead code elimination",
	"html/template":                                     "the same",
	"github.com/vishvananda/netlink":                    "the sidecar changes no network",
	"github.com/tunmesh/tunmesh/control":                "the sidecar is not the control plane",
	"github.com/tunmesh/tunmesh/cni":                    "nor the node's agent",
	"github.com/tunmesh/tunmesh/api":                    "generated code registers itself in init",
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest": "tests only",
}

// breaks lists the dependencies that forbidden names.
func breaks(deps []string) []string {
	var bad []string
	for _, d := range deps {
		for f, why := range forbidden {
			if d == f || strings.HasPrefix(d, strings.TrimSuffix(f, "/")+"/") {
				bad = append(bad, d+": "+why)
			}
		}
	}
	return bad
}

func TestTheSidecarLinksLittle(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 50 {
		t.Fatalf("only %d dependencies: the list is broken", len(deps))
	}
	for _, b := range breaks(deps) {
		t.Error(b)
	}
	if got := breaks([]string{"fmt", "net/http/httptrace", "k8s.io/api/core/v1"}); len(got) != 2 {
		t.Errorf("the rule can't fail: %q", got)
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--version"}, 0, "mesh-proxy "},
		{[]string{"--help"}, 0, "Exit codes"},
		{[]string{"--help"}, 0, "no-metrics"},
		{[]string{"--nonsense"}, exitUsage, "not defined"},
		{[]string{"stray"}, exitUsage, "unexpected argument"},
		{[]string{"--log-level", "loud"}, exitUsage, "want debug"},
	} {
		var b bytes.Buffer
		if code := run(c.args, &b, &b); code != c.code || !strings.Contains(b.String(), c.want) {
			t.Errorf("%q: exit %d, %q", c.args, code, b.String())
		}
	}
}

func TestOutsideOfTheChain(t *testing.T) {
	var b bytes.Buffer
	code := run([]string{"--broker", fmt.Sprintf("@tunmesh-test-nobody-%d", time.Now().UnixNano())}, &b, &b)
	if code != exitOutside || !strings.Contains(b.String(), "CNI plugin") {
		t.Errorf("exit %d, %q", code, b.String())
	}
}

func TestExitCodes(t *testing.T) {
	for err, want := range map[error]int{
		fmt.Errorf("x: %w", handover.ErrOutside):                 exitOutside,
		fmt.Errorf("x: %w", &handover.RefusedError{Reason: "y"}): exitRefused,
		errors.New("other"):                                      exitFailed,
	} {
		if got := exitCode(err); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
	}
}

func TestConfiguration(t *testing.T) {
	m := &handover.Message{Annotations: map[string]string{annotation.ShutdownGracePeriod: "90s"}}
	if d, err := graceOf(m); err != nil || d != 90*time.Second {
		t.Errorf("grace %v, %v", d, err)
	}
	m.Annotations[annotation.ShutdownGracePeriod] = "soon"
	if _, err := graceOf(m); err == nil || !strings.Contains(err.Error(), "120s") {
		t.Errorf("grace: %v", err)
	}
	if l, err := limitsOf(m); err != nil || l.Connections != 0 {
		t.Errorf("without the annotation: %+v, %v", l, err)
	}
	m.Annotations[annotation.ProxyMaxConnections] = "40000"
	if l, err := limitsOf(m); err != nil || l.Connections != 40_000 {
		t.Errorf("limits %+v, %v", l, err)
	}
	m.Annotations[annotation.ProxyMaxConnections] = "-1"
	if _, err := limitsOf(m); err == nil {
		t.Error("a negative number of connections was taken")
	}
	if f, err := accessOf(m); err != nil || f != accesslog.Off {
		t.Errorf("access log %v, %v", f, err)
	}
	m.Annotations[annotation.LinkerdAccessLog] = "json"
	if f, err := accessOf(m); err != nil || f != accesslog.JSON {
		t.Errorf("access log %v, %v", f, err)
	}
	m.Annotations[annotation.AccessLog] = "apache"
	if f, err := accessOf(m); err != nil || f != accesslog.Apache {
		t.Errorf("access log %v, %v", f, err)
	}
	m.Annotations[annotation.AccessLog] = "xml"
	if _, err := accessOf(m); err == nil || !strings.Contains(err.Error(), annotation.AccessLog) {
		t.Errorf("access log: %v", err)
	}
	if _, err := anchorsOf("no PEM here"); err == nil {
		t.Error("an empty bundle was taken")
	}
}

func TestTracing(t *testing.T) {
	m := &handover.Message{Pod: handover.Pod{Namespace: "shop", Name: "web-1", UID: "u"}, Node: "n", Annotations: map[string]string{annotation.TraceSampling: "many"}}
	if tr, err := tracerOf(m, nil, nil); tr != nil || err != nil {
		t.Errorf("without a collector: %v, %v", tr, err)
	}
	m.Annotations[annotation.TraceCollector] = "collector.obs"
	if _, _, err := tracingOf(m); err == nil || !strings.Contains(err.Error(), annotation.TraceSampling) {
		t.Errorf("%v", err)
	}
	delete(m.Annotations, annotation.TraceSampling)
	if c, ratio, err := tracingOf(m); c != "collector.obs:4317" || ratio != 0.01 || err != nil {
		t.Errorf("%q, %v, %v", c, ratio, err)
	}
	m.Annotations[annotation.TraceSampling] = "100%"
	if _, ratio, err := tracingOf(m); ratio != 1 || err != nil {
		t.Errorf("%v, %v", ratio, err)
	}
	m.Annotations[annotation.TraceCollector] = "http://x"
	if _, err := tracerOf(m, nil, nil); err == nil || !strings.Contains(err.Error(), annotation.TraceCollector) {
		t.Errorf("%v", err)
	}
	has := func(want string) {
		t.Helper()
		if got := fmt.Sprint(resourceOf(m, map[string]string{"deployment": "web", "replicaset": "web-1"})); !strings.Contains(got, want) {
			t.Errorf("%s is not in %s", want, got)
		}
	}
	for _, want := range []string{"{service.name web}", "{k8s.deployment.name web}", "{k8s.pod.name web-1}", "{k8s.node.name n}", "{k8s.namespace.name shop}", "{k8s.pod.uid u}"} {
		has(want)
	}
	m.Annotations["resource.opentelemetry.io/service.name"] = "front"
	has("{service.name front}")
}
