package tunproxy_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/internal/transcript"
	"github.com/tunmesh/tunmesh/tunproxy"
	"github.com/tunmesh/tunmesh/tunproxy/accesslog"
	"github.com/tunmesh/tunmesh/tunproxy/authz"
)

// lines is a file that can be read while it is written.
type lines struct{ transcript.Transcript }

func (l *lines) all() []string { return strings.Split(strings.TrimSuffix(l.String(), "\n"), "\n") }

// TestAccessLog: a line for each request to the pod, of meshed clients with who
// they are, of others, and of those that policy denies; none for what leaves it.
func TestAccessLog(t *testing.T) {
	w := newWorld(t)
	var file lines
	log := accesslog.New(accesslog.JSON, &file)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go log.Run(ctx)
	a := w.pod("a", "10.0.0.1", withTune(func(c *tunproxy.Config) { c.AccessLog = log }))
	b := w.pod("b", "10.0.0.2", withTune(func(c *tunproxy.Config) { c.AccessLog = log }),
		withPolicy(&authz.Config{Default: authz.AllAuthenticated}))
	w.service("10.96.0.1:80", "10.0.0.2:80=b")
	b.serveHTTP(80, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "short and stout")
	}))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://10.96.0.1/pot?of=tea", strings.NewReader("leaves"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("User-Agent", "kettle")
	req.Header.Set("X-Request-Id", "42")
	resp, err := a.client(true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	eventually(t, "a line is written", func() bool { return file.all()[0] != "" })
	var got map[string]any
	if err := json.Unmarshal([]byte(file.all()[0]), &got); err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]any{
		"method": "POST", "uri": "http://10.96.0.1/pot?of=tea", "version": "HTTP/2.0", "status": 418.0, "user_agent": "kettle", "trace_id": "42",
		"request_bytes": "6", "response_bytes": "15", "host": "10.96.0.1", "client.id": id("a").ServerName(),
	} {
		if got[k] != v {
			t.Errorf("%s is %v, want %v", k, got[k], v)
		}
	}
	if addr, _ := got["client.addr"].(string); !strings.HasPrefix(addr, "10.0.0.1:") {
		t.Errorf("client.addr is %s", addr)
	}
	resp, err = w.hostOutside("10.0.0.9").client(true).Get("http://10.0.0.2/denied")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	eventually(t, "the second line is written", func() bool { return len(file.all()) == 2 })
	if l := file.all()[1]; !strings.Contains(l, `"client.id":"-"`) || !strings.Contains(l, `"status":403`) || !strings.Contains(l, "/denied") {
		t.Errorf("%s", l)
	}
	for i, pairs := range [][2]string{
		{"Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}, {"B3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"},
		{"X-B3-Traceid", "0af7651916cd43dd8448eb211c80319c"}, {"X-Amzn-Trace-Id", "0af7651916cd43dd8448eb211c80319c"},
	} {
		req.Body = nil
		req.Header = http.Header{"X-B3-Spanid": {"b7ad6b7169203331"}, pairs[0]: {pairs[1]}}
		if resp, err = a.client(true).Do(req); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		eventually(t, "the next line is written", func() bool { return len(file.all()) == 3+i })
		if l := file.all()[2+i]; !strings.Contains(l, `"trace_id":"0af7651916cd43dd8448eb211c80319c"`) {
			t.Errorf("%v: %s", pairs, l)
		}
	}
	if n := b.metric("access_log_dropped_total"); n != 0 {
		t.Errorf("%v lines were dropped", n)
	}
}
