package dashboard

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

// lists is an API server that has Events, and notes how it is asked for them.
type lists struct {
	asked []string
	code  int
	pages []string // of lists, by the number that continues them
}

func (l *lists) RoundTrip(r *http.Request) (*http.Response, error) {
	l.asked = append(l.asked, r.Method+" "+r.URL.RequestURI())
	w := httptest.NewRecorder()
	w.WriteHeader(l.code)
	n := 0
	_, _ = fmt.Sscan(r.URL.Query().Get("continue"), &n)
	_, _ = io.WriteString(w, l.pages[min(n, len(l.pages)-1)])
	return w.Result(), nil
}

func event(kind, name, reason, at string) string {
	return fmt.Sprintf(`{"involvedObject":{"kind":%q,"name":%q},"reason":%q,"message":"m <b>","type":"Warning","lastTimestamp":%q,"count":3}`, kind, name, reason, at)
}

func list(next string, items ...string) string {
	return fmt.Sprintf(`{"kind":"EventList","metadata":{"continue":%q},"items":[%s]}`, next, strings.Join(items, ","))
}

// eventsRig is a dashboard that somebody was let into.
func eventsRig(t *testing.T, l *lists, local bool) *rig {
	t.Helper()
	r := &rig{t: t, host: "127.0.0.1:7777"}
	var err error
	r.s, err = New(Config{
		Target: &url.URL{Scheme: "https", Host: "api", Path: "/k8s/c"}, Transport: l, Session: Session{Mesh: "a cluster", Local: local},
		Check: func(context.Context) ([]render.CheckCategory, error) { return nil, nil },
	}, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7777})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const ofWeb = eventsPath + "?namespace=shop&kind=deployment&name=web"

func TestEvents(t *testing.T) {
	l := &lists{code: http.StatusOK, pages: []string{
		list("1", event("Pod", "web-5d8c7f9b4-x7k2p", "Unhealthy", "2026-01-02T03:04:05Z"), event("Pod", "web-api-x7k2p", "Other", "2026-01-02T03:04:05Z"),
			event("Pod", "web-api-5d8c7f9b4-x7k2p", "Other", "2026-01-02T03:04:05Z")),
		list("", event("Deployment", "web", "ScalingReplicaSet", "2026-01-02T03:04:07Z"), event("ReplicaSet", "web-5d8c7f9b4", "SuccessfulCreate", "2026-01-02T03:04:06Z"),
			event("Service", "web", "Other", "2026-01-02T03:04:06Z"), event("StatefulSet", "web", "Other", "2026-01-02T03:04:06Z"), event("Pod", "web-0", "Other", "2026-01-02T03:04:06Z")),
	}}
	r := eventsRig(t, l, false)
	if w := r.do("GET", ofWeb); w.Code != http.StatusUnauthorized || len(l.asked) > 0 {
		t.Errorf("without a session: %d, asked %q", w.Code, l.asked)
	}
	r.enter()
	w := r.do("GET", ofWeb)
	var got Events
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	var reasons []string
	for _, e := range got.List {
		reasons = append(reasons, e.Reason)
	}
	if want := []string{"ScalingReplicaSet", "SuccessfulCreate", "Unhealthy"}; !slices.Equal(reasons, want) || !got.Kept || got.Partial {
		t.Errorf("%+v, want %q", got, want)
	}
	if e := got.List[2]; e.Object != "pod/web-5d8c7f9b4-x7k2p" || !e.Warning || e.Count != 3 || e.Message != "m <b>" {
		t.Errorf("%+v", e)
	}
	want := []string{"GET /k8s/c/api/v1/namespaces/shop/events?limit=500", "GET /k8s/c/api/v1/namespaces/shop/events?limit=500&continue=1"}
	if !slices.Equal(l.asked, want) {
		t.Errorf("asked %q, want %q", l.asked, want)
	}
}

// Somebody who may not list them is told so, in the API server's words.
func TestEventsRefused(t *testing.T) {
	l := &lists{code: http.StatusForbidden, pages: []string{`{"kind":"Status","message":"ann cannot list events"}`}}
	r := eventsRig(t, l, false)
	r.enter()
	if w := r.do("GET", ofWeb); w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "ann cannot list events") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for _, query := range []string{
		"", "?namespace=shop&kind=deployment", "?namespace=&kind=deployment&name=web", "?namespace=..&kind=deployment&name=web", "?namespace=a%2Fpods%2Fb&kind=deployment&name=web",
		"?namespace=shop&kind=secret&name=web", "?namespace=shop&kind=deployment&name=.*", "?namespace=shop&kind=deployment&name=a%0Ab",
	} {
		l.asked = nil
		if w := r.do("GET", eventsPath+query); w.Code != http.StatusBadRequest || len(l.asked) > 0 {
			t.Errorf("%s: %d, asked %q", query, w.Code, l.asked)
		}
	}
	l.asked = nil
	if w := r.do("POST", ofWeb, "Origin", "http://"+r.host); w.Code != http.StatusMethodNotAllowed || len(l.asked) > 0 {
		t.Errorf("POST: %d, asked %q", w.Code, l.asked)
	}
}

// A namespace of many Events is not read to its end, and a local mesh has none.
func TestEventsAreBounded(t *testing.T) {
	var many []string
	for i := range 2 * maxEvents {
		many = append(many, event("Pod", fmt.Sprintf("web-%d", i), "R", "2026-01-02T03:04:05Z"))
	}
	l := &lists{code: http.StatusOK, pages: []string{list("0", many...)}} // never ends
	r := eventsRig(t, l, false)
	r.enter()
	const sts = eventsPath + "?namespace=shop&kind=statefulset&name=web"
	var got Events
	if err := json.Unmarshal(r.do("GET", sts).Body.Bytes(), &got); err != nil || len(got.List) != maxEvents || !got.Partial || len(l.asked) != maxEventLists {
		t.Errorf("%d events, partial %t, asked %d times, %v", len(got.List), got.Partial, len(l.asked), err)
	}
	l = &lists{code: http.StatusOK, pages: []string{"{}"}}
	r = eventsRig(t, l, true)
	r.enter()
	if body := strings.TrimSpace(r.do("GET", sts).Body.String()); body != `{"kept":false,"partial":false,"events":[]}` || len(l.asked) > 0 {
		t.Errorf("of a local mesh: %s, asked %q", body, l.asked)
	}
}
