package local_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

// otelCollector is the real collector, meshed itself, which prints what it gets.
const otelCollector = `apiVersion: v1
kind: Namespace
metadata:
  name: observability
  annotations: {tunmesh.io/inject: enabled}
---
apiVersion: v1
kind: Service
metadata: {name: collector, namespace: observability}
spec:
  selector: {app: collector}
  ports: [{port: 4317}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: collector, namespace: observability}
spec:
  selector: {matchLabels: {app: collector}}
  template:
    metadata:
      labels: {app: collector}
      annotations: {config.tunmesh.io/default-inbound-policy: all-authenticated}
    spec:
      containers:
        - name: app
          image: collector
          command: [collector, "0.0.0.0:4317", "0s"]
          readinessProbe: {tcpSocket: {port: 4317}, periodSeconds: 1}
`

// tracedSample is the demo whose pods send spans; of the bot's requests all are
// sampled, of others those whose sender says so.
func tracedSample() string {
	s := strings.Replace(sample(), "{tunmesh.io/inject: enabled}",
		`{tunmesh.io/inject: enabled, config.tunmesh.io/trace-collector: "collector.observability:4317", config.tunmesh.io/trace-sampling: "0"}`, 1)
	return strings.Replace(s, "      labels:\n        app: vote-bot\n",
		"      labels:\n        app: vote-bot\n      annotations: {config.tunmesh.io/trace-sampling: 100%}\n", 1)
}

// otelSpan is a line of the collector's.
type otelSpan struct {
	Trace, Span, Parent, State, Name, Kind, Status string
	Attributes, Resource                           map[string]any
}

// from says whose span it is and of what kind.
func (s *otelSpan) from() string {
	return fmt.Sprintf("%v %s %s", s.Resource["service.name"], strings.ToLower(s.Kind), s.Name)
}

// otelSpans are what the collector has got so far.
func otelSpans(t *testing.T, m *meshtest.Mesh) (all []otelSpan) {
	t.Helper()
	for line := range bytes.Lines(m.Ctl(t, "local", "logs", "-n", "observability", "deploy/collector")) {
		var s otelSpan
		if err := json.Unmarshal(line, &s); err == nil && s.Trace != "" {
			all = append(all, s)
		}
	}
	return all
}

// TestTraces: a request's trace crosses the sidecars of the client, of web and of
// voting, and reaches OpenTelemetry's collector through the mesh.
func TestTraces(t *testing.T) {
	if testing.Short() {
		t.Skip("builds OpenTelemetry's collector")
	}
	if out, err := exec.Command("go", "build", "-C", "collector", "-trimpath", "-o", string(bin)+"/collector", ".").CombinedOutput(); err != nil {
		t.Fatalf("build the collector: %v: %s", err, out)
	}
	m := meshtest.Up(t, bin, "traces", otelCollector, tracedSample())
	bot := m.Pod(t, "vote-bot").Name
	vote := func(header string) {
		t.Helper()
		m.Ctl(t, "local", "exec", "-n", "emojivoto", bot, "--", "curl", "-sS", "--fail-with-body", "-H", header, "http://web-svc.emojivoto/api/vote?choice=:taco:")
	}

	const parent = "b7ad6b7169203331"
	const web, bot3 = "0af7651916cd43dd8448eb211c80319c", "1af7651916cd43dd8448eb211c80319c"
	const unsampled = "2af7651916cd43dd8448eb211c80319c"
	// Its calls fail for a while where web was ready before those that it calls.
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		if _, err := m.TryExec(10*time.Second, bot, "curl", "-sS", "--fail-with-body", "-H", "b3: 0", "http://web-svc.emojivoto/api/vote?choice=:taco:"); err == nil || time.Now().After(until) {
			break
		}
	}
	vote("traceparent: 00-" + unsampled + "-" + parent + "-00")
	for trace, header := range map[string]string{web: "traceparent: 00-" + web + "-" + parent + "-01", bot3: "b3: " + bot3 + "-" + parent + "-1"} {
		vote(header)
		checkVote(t, trace, parent, waitFor(t, m, trace, 6))
	}

	// The bot's own requests: it knows nothing of traces, and each is the root of one.
	root := map[string]otelSpan{}
	served := 0
	for _, s := range otelSpans(t, m) {
		if s.Trace == unsampled {
			t.Errorf("a span of what is not sampled: %+v", s)
		}
		if s.Kind == "Client" && s.Resource["service.name"] == "vote-bot" && s.Parent == strings.Repeat("0", 16) {
			root[s.Span] = s
		}
	}
	for _, s := range otelSpans(t, m) {
		if c, ok := root[s.Parent]; ok && s.Kind == "Server" && s.Resource["service.name"] == "web" && s.Trace == c.Trace {
			served++
		}
	}
	if len(root) == 0 || served == 0 {
		t.Errorf("%d roots of the bot's, %d of them served by web", len(root), served)
	}

	// Without its collector the mesh goes on, and says what is lost.
	m.Ctl(t, "local", "delete", "deploy/collector", "-n", "observability")
	for range 20 {
		vote("traceparent: 00-" + web + "-" + parent + "-01")
	}
}

// waitFor waits for n spans of a trace.
func waitFor(t *testing.T, m *meshtest.Mesh, trace string, n int) map[string]otelSpan {
	t.Helper()
	for until := time.Now().Add(40 * time.Second); ; time.Sleep(500 * time.Millisecond) {
		found := map[string]otelSpan{}
		for _, s := range otelSpans(t, m) {
			if s.Trace == trace {
				found[s.from()] = s
			}
		}
		if len(found) >= n || time.Now().After(until) {
			return found
		}
	}
}

// checkVote: who asked for a span of whom.
func checkVote(t *testing.T, trace, parent string, got map[string]otelSpan) {
	t.Helper()
	of := ""
	for _, name := range []string{
		"vote-bot client GET", "web server GET",
		"web client emojivoto.v1.EmojiService/FindByShortcode", "emoji server emojivoto.v1.EmojiService/FindByShortcode",
		"web client emojivoto.v1.VotingService/VoteTaco", "voting server emojivoto.v1.VotingService/VoteTaco",
	} {
		s, ok := got[name]
		if !ok {
			t.Fatalf("trace %s has no span %q; there are %v", trace, name, got)
		}
		switch name {
		case "vote-bot client GET":
			of = parent
		case "web client emojivoto.v1.EmojiService/FindByShortcode", "web client emojivoto.v1.VotingService/VoteTaco":
			of = got["web server GET"].Span
		}
		if s.Parent != of {
			t.Errorf("trace %s: the parent of %q is %s, want %s", trace, name, s.Parent, of)
		}
		of = s.Span
	}
	if len(got) != 6 {
		t.Errorf("%v", got)
	}
	for name, want := range map[string]map[string]any{
		"vote-bot client GET": {"url.full": "http://web-svc.emojivoto/api/vote", "tunmesh.server.id": "web.emojivoto.sa.cluster.local", "http.response.status_code": 200.0},
		"web server GET":      {"url.path": "/api/vote", "tunmesh.client.id": "vote-bot.emojivoto.sa.cluster.local", "server.address": "web-svc.emojivoto"},
		"voting server emojivoto.v1.VotingService/VoteTaco": {"rpc.system.name": "grpc", "rpc.response.status_code": "OK", "tunmesh.client.id": "web.emojivoto.sa.cluster.local"},
	} {
		for k, v := range want {
			if got[name].Attributes[k] != v {
				t.Errorf("%q: %s is %v, want %v", name, k, got[name].Attributes[k], v)
			}
		}
	}
	if r := got["voting server emojivoto.v1.VotingService/VoteTaco"].Resource; r["k8s.deployment.name"] != "voting" || r["k8s.namespace.name"] != "emojivoto" {
		t.Errorf("%v", r)
	}
}
