package viewclient

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"

	"github.com/tunmesh/tunmesh/api/policy"
	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/api/tap"
)

// server is an API server that notes what it is asked.
type server struct {
	asked, body string
	code        int
	answer      string
	hold        chan struct{} // the answer's rest waits for it
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	s.asked, s.body = r.Method+" "+r.URL.String(), string(raw)
	if strings.HasPrefix(s.answer, "{") {
		w.Header().Set("Content-Type", "application/json")
	} else {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	w.WriteHeader(s.code)
	_, _ = io.WriteString(w, s.answer)
	if s.hold != nil {
		_ = http.NewResponseController(w).Flush()
		select {
		case <-s.hold:
		case <-r.Context().Done():
		}
	}
}

func start(t *testing.T) (*server, *Client) {
	t.Helper()
	s := &server{code: 200, answer: "{}"}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	c, err := New(&rest.Config{Host: h.URL})
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

const base = "/apis/view.tunmesh.io/v1alpha1"

func TestQuestions(t *testing.T) {
	s, c := start(t)
	ctx := t.Context()
	s.answer = `{"rows":[{"name":"web","rps":2.5,"successCount":"7"}]}`
	for _, tc := range []struct {
		req  *query.StatRequest
		want string
	}{
		{&query.StatRequest{Resource: &query.Selector{Kind: "deployment", Namespace: "emojivoto", Name: "web"}}, "/namespaces/emojivoto/deployments/web/stat"},
		{&query.StatRequest{Resource: &query.Selector{Kind: "pod", AllNamespaces: true, LabelSelector: "a=b"}, WindowSeconds: 30}, "/namespaces/-/pods/-/stat?labelSelector=a%3Db&window=30"},
		{&query.StatRequest{Resource: &query.Selector{Kind: "namespace", Name: "a"}}, "/namespaces/a/namespaces/a/stat"},
		{&query.StatRequest{Resource: &query.Selector{Kind: "namespace"}}, "/namespaces/-/namespaces/-/stat"},
		{&query.StatRequest{Resource: &query.Selector{Kind: "service", Namespace: "a"}, From: &query.Selector{Kind: "deployment", Namespace: "b", Name: "c"}}, "/namespaces/a/services/-/stat?from=deployments%2Fb%2Fc"},
		{&query.StatRequest{Resource: &query.Selector{Kind: "pod", Namespace: "a"}, To: &query.Selector{Kind: "namespace", Name: "b"}}, "/namespaces/a/pods/-/stat?to=namespaces%2Fb%2Fb"},
	} {
		resp, err := c.Stat(ctx, tc.req)
		if err != nil || len(resp.GetRows()) != 1 || resp.GetRows()[0].GetRps() != 2.5 || resp.GetRows()[0].GetSuccessCount() != 7 {
			t.Fatalf("%v %v", resp, err)
		}
		if s.asked != "GET "+base+tc.want {
			t.Errorf("asked %s, want %s", s.asked, tc.want)
		}
	}
	if _, err := c.Stat(ctx, &query.StatRequest{Resource: &query.Selector{Kind: "secret"}}); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
	s.answer = `{"rows":[{"ip":"10.0.0.1","port":80}],"somethingNew":1}`
	if r, err := c.Endpoints(ctx, &query.EndpointsRequest{Authority: "web.emojivoto.svc.cluster.local:80"}); err != nil || r.GetRows()[0].GetPort() != 80 || s.asked != "GET "+base+"/namespaces/emojivoto/services/web/endpoints?port=80" {
		t.Errorf("%v %v %s", r, err, s.asked)
	}
	if _, err := c.Endpoints(ctx, &query.EndpointsRequest{Authority: "web"}); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
	s.answer = `{"inbound":{"default":"DENY"}}`
	if r, err := c.Policy(ctx, &query.PolicyRequest{Resource: &query.Selector{Kind: "pod", Namespace: "a", Name: "p"}, Port: 80}); err != nil || r.GetInbound().GetDefault() != policy.Default_DENY || s.asked != "GET "+base+"/namespaces/a/pods/p/policy?port=80" {
		t.Errorf("%v %v %s", r, err, s.asked)
	}
	s.answer = `{"edges":[{"src":{"name":"web"},"rps":2}]}`
	if r, err := c.Edges(ctx, &query.EdgesRequest{Resource: &query.Selector{Kind: "deployment", Namespace: "a", LabelSelector: "x"}, WindowSeconds: 30}); err != nil || r.GetEdges()[0].GetSrc().GetName() != "web" || s.asked != "GET "+base+"/namespaces/a/deployments/-/edges?labelSelector=x&window=30" {
		t.Errorf("%v %v %s", r, err, s.asked)
	}
	s.answer = `{"rows":[{"name":"web","route":"r"}]}`
	for outbound, direction := range map[bool]string{false: "inbound", true: "outbound"} {
		if r, err := c.Routes(ctx, &query.RoutesRequest{Resource: &query.Selector{Kind: "job", Namespace: "a", Name: "j"}, Outbound: outbound}); err != nil || r.GetRows()[0].GetRoute() != "r" || s.asked != "GET "+base+"/namespaces/a/jobs/j/routes?direction="+direction {
			t.Errorf("%v %v %s", r, err, s.asked)
		}
	}
	s.answer = `{"rows":[{"pod":"p","state":"DISABLED"}]}`
	if r, err := c.Taps(ctx, &query.TapsRequest{Resource: &query.Selector{Kind: "pod", AllNamespaces: true}}); err != nil || r.GetRows()[0].GetState() != query.TapsRow_DISABLED || s.asked != "GET "+base+"/namespaces/-/pods/-/tap" {
		t.Errorf("%v %v %s", r, err, s.asked)
	}
	s.answer = `{"rows":[{"connection":{"ageUs":"7"},"peer":"a/q"}],"total":"9"}`
	if r, err := c.Connections(ctx, &query.ConnectionsRequest{Namespace: "a", Pod: "p", Limit: 3}); err != nil || r.GetRows()[0].GetConnection().GetAgeUs() != 7 || r.GetTotal() != 9 || s.asked != "GET "+base+"/namespaces/a/pods/p/connections?limit=3" {
		t.Errorf("%v %v %s", r, err, s.asked)
	}
	s.answer = `{"verdict":"FAILS","reasons":[{"subject":"name","mark":"BAD","text":"no"}]}`
	if r, err := c.Why(ctx, &query.WhyRequest{From: &query.Selector{Kind: "pod", Namespace: "a", Name: "p"}, ToHost: "x", Port: 80}); err != nil || r.GetVerdict() != query.WhyResponse_FAILS || s.asked != "POST "+base+"/why" || !strings.Contains(s.body, `"toHost":"x"`) && !strings.Contains(s.body, `"toHost": "x"`) {
		t.Errorf("%v %v %s %s", r, err, s.asked, s.body)
	}
	for _, bad := range []*query.Selector{{Kind: "secret"}, {}} {
		_, err1 := c.Edges(ctx, &query.EdgesRequest{Resource: bad})
		_, err2 := c.Routes(ctx, &query.RoutesRequest{Resource: bad})
		_, err3 := c.Taps(ctx, &query.TapsRequest{Resource: bad})
		for _, err := range []error{err1, err2, err3} {
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("%v: %v", bad, err)
			}
		}
	}
	s.answer = `{"version":"v1"}`
	if r, err := c.Health(ctx, nil); err != nil || r.GetVersion() != "v1" || s.asked != "GET "+base+"/health" {
		t.Errorf("%v %v %s", r, err, s.asked)
	}
}

func TestErrors(t *testing.T) {
	s, c := start(t)
	ours := func(code string) string {
		return `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"so it is","code":` + code + `}`
	}
	for _, tc := range []struct {
		code   int
		answer string
		want   codes.Code
		says   string
	}{
		{400, ours("400"), codes.InvalidArgument, "so it is"},
		{401, ours("401"), codes.Unauthenticated, "so it is"},
		{403, ours("403"), codes.PermissionDenied, "so it is"},
		{404, ours("404"), codes.NotFound, "so it is"},
		{404, "404 page not found", codes.Unavailable, "is the mesh installed?"},
		{409, ours("409"), codes.FailedPrecondition, "so it is"},
		{503, ours("503"), codes.Unavailable, "so it is"},
		{503, "service unavailable", codes.Unavailable, "does not reach mesh-view"},
		{500, ours("500"), codes.Internal, "so it is"},
		{200, "nonsense", codes.Internal, "read the mesh's answer"},
	} {
		s.code, s.answer = tc.code, tc.answer
		if _, err := c.Health(t.Context(), nil); status.Code(err) != tc.want || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%d %s: %v", tc.code, tc.answer, err)
		}
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if _, err := c.Health(ctx, nil); status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
	gone, err := New(&rest.Config{Host: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gone.Health(t.Context(), nil); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
}

func TestTap(t *testing.T) {
	s, c := start(t)
	s.hold = make(chan struct{})
	s.answer = "{}\n" + `{"event":{"stream":"7"}}` + "\n" + `{"lost":"3"}` + "\n" + `{"kind":"Status","message":"the replicas are gone","code":503}` + "\n"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := c.Tap(ctx, &query.TapRequest{Resource: &query.Selector{Kind: "pod", Namespace: "a", Name: "p", LabelSelector: "x"}, MaxRps: 7, Match: &tap.Match{Method: "GET"}})
	if err != nil {
		t.Fatal(err)
	}
	if s.asked != "POST "+base+"/watch/namespaces/a/pods/p/tap?labelSelector=x" || strings.Contains(s.body, "resource") || !strings.Contains(s.body, "GET") {
		t.Errorf("%s %s", s.asked, s.body)
	}
	if m, err := stream.Recv(); err != nil || m.GetMessage() != nil {
		t.Errorf("%v %v", m, err)
	}
	if m, err := stream.Recv(); err != nil || m.GetEvent().GetStream() != 7 {
		t.Errorf("%v %v", m, err)
	}
	if m, err := stream.Recv(); err != nil || m.GetLost() != 3 {
		t.Errorf("%v %v", m, err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the replicas are gone") {
		t.Errorf("%v", err)
	}
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("%v", err)
	}

	close(s.hold)
	s.answer = "{}\nnonsense\n"
	if stream, err = c.Tap(t.Context(), &query.TapRequest{Resource: &query.Selector{Kind: "pod", Namespace: "a"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Error(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Internal {
		t.Error(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}

	s.code, s.answer = 403, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","code":403}`
	if _, err := c.Tap(t.Context(), &query.TapRequest{Resource: &query.Selector{Kind: "pod", Namespace: "a"}}); status.Code(err) != codes.PermissionDenied {
		t.Error(err)
	}
}
