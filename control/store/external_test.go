package store

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/control/metrics"
)

// TestExternal asks a Prometheus that is a store of ours behind its API.
func TestExternal(t *testing.T) {
	s := open(t, Config{})
	now := time.Now()
	for i := range 7 {
		insert(t, s, now.Add(time.Duration(i-6)*10*time.Second), counter, fmt.Sprintf(`response_total{tls="true"} %d`, 10*i))
	}
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		seen = append(seen, fmt.Sprint(r.Method, " ", r.URL.Path, " ", user, ":", password, " ", r.Header.Get("X-Remote-User"), r.Header.Get("Cookie")))
		http.StripPrefix("/prom", s).ServeHTTP(w, r)
	}))
	defer server.Close()
	e, err := NewExternal(strings.Replace(server.URL, "//", "//ann:secret@", 1) + "/prom/")
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	list, err := metrics.Asker{PromQL: e}.Increase(t.Context(), metrics.ResponseTotal, []metrics.Matcher{metrics.Is("pod", "web-1")}, []string{"tls"}, 2*time.Minute)
	if err != nil || len(list) != 1 || list[0].Labels["tls"] != "true" || list[0].Value < 60 || list[0].Covered != 2*time.Minute {
		t.Errorf("%+v, %v", list, err)
	}
	if m, err := e.Range(t.Context(), "response_total", metrics.Range{Start: now.Add(-time.Minute), End: now, Step: 30 * time.Second}); err != nil || len(m) != 1 {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := e.Instant(t.Context(), "1", now); err == nil || !strings.Contains(err.Error(), "scalar") {
		t.Errorf("a number: %v", err)
	}
	if _, err := e.Instant(t.Context(), "(", now); err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "parse") {
		t.Errorf("a query that is none: %v", err)
	}
	// What people ask is passed on, and nothing of who they are.
	for path, code := range map[string]int{"query?query=up": 200, "label/job/values": 200, "query?query=(": 400, "admin/tsdb/snapshot": 404, "../../x": 404} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, Prefix+path, nil)
		r.Header.Set("X-Remote-User", "bob")
		r.Header.Set("Cookie", "c=1")
		if e.ServeHTTP(w, r); w.Code != code {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, Prefix+"query", strings.NewReader("query=up"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if e.ServeHTTP(w, r); w.Code != 200 || !strings.Contains(w.Body.String(), `"web-1"`) {
		t.Errorf("a form: %d %s", w.Code, w.Body)
	}
	w = httptest.NewRecorder()
	if e.ServeHTTP(w, httptest.NewRequest(http.MethodDelete, Prefix+"series", nil)); w.Code != 405 {
		t.Errorf("DELETE: %d", w.Code)
	}
	for _, line := range seen {
		if !strings.Contains(line, " /prom/api/v1/") || !strings.Contains(line, " ann:secret ") || strings.Contains(line, "bob") || strings.Contains(line, "c=1") {
			t.Errorf("Prometheus saw %q", line)
		}
	}
	server.Close()
	w = httptest.NewRecorder()
	if e.ServeHTTP(w, httptest.NewRequest(http.MethodGet, Prefix+"query?query=up", nil)); w.Code != 502 || strings.Contains(w.Body.String(), "secret") || !strings.Contains(w.Body.String(), "does not answer") {
		t.Errorf("away: %d %s", w.Code, w.Body)
	}
}

func TestExternalIsRefused(t *testing.T) {
	for _, bad := range []string{"", "prometheus:9090", "ftp://x", "http://", "http://x?y=z", ":"} {
		if _, err := NewExternal(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
