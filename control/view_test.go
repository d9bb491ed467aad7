package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/control/extension"
	"github.com/tunmesh/tunmesh/control/identity"
	"github.com/tunmesh/tunmesh/control/kube"
)

// apiServer is one that has nothing but what a view needs, allows what the table of
// rights says, and remembers which of it was used.
type apiServer struct {
	front map[string]string // the ConfigMap that says whom to believe

	mu     sync.Mutex
	rights map[string]bool // "verb resource name namespace" → whether it was used
	denied []string
}

// viewRights reads the view's rows of the table; those of Kubernetes' own role may
// be more than are used.
func viewRights(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("../docs/rights.md")
	if err != nil {
		t.Fatal(err)
	}
	rights := map[string]bool{}
	_, table, _ := strings.Cut(string(text), "| account | resource |")
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || cells[1] != " mesh-view " {
			continue
		}
		what, namespace, _ := strings.Cut(strings.TrimSpace(cells[2]), " in ")
		what, _, _ = strings.Cut(what, " (")
		what, name, _ := strings.Cut(what, " `")
		for resource := range strings.SplitSeq(what, ", ") {
			for verb := range strings.SplitSeq(strings.TrimSpace(cells[3]), ", ") {
				own := strings.Contains(cells[4], "Kubernetes' own Role") && verb == "get"
				rights[strings.TrimSpace(fmt.Sprint(verb, " ", resource, " ", strings.Trim(name, "`"), " ", strings.Trim(namespace, "`")))] = own
			}
		}
	}
	if len(rights) < 20 {
		t.Fatalf("only %d rights found", len(rights))
	}
	return rights
}

// allow judges a request as RBAC does.
func (s *apiServer) allow(r *http.Request) (resource string, ok bool) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if parts = parts[2:]; !strings.HasPrefix(r.URL.Path, "/api/") {
		parts = parts[1:]
	}
	namespace, name := "", ""
	if parts[0] == "namespaces" && len(parts) > 2 {
		namespace, parts = parts[1], parts[2:]
	}
	resource = parts[0]
	if len(parts) > 1 {
		name = parts[1]
	}
	q := r.URL.Query()
	if n, found := strings.CutPrefix(q.Get("fieldSelector"), "metadata.name="); found {
		name = n
	}
	verb := map[string]string{http.MethodPost: "create", http.MethodPatch: "patch", http.MethodPut: "update", http.MethodGet: "list"}[r.Method]
	switch {
	case q.Get("watch") != "":
		verb = "watch"
	case verb == "list" && len(parts) > 1:
		verb = "get"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// A right that names no object is for all, and one that names no namespace for
	// those of all.
	for _, of := range [][2]string{{name, namespace}, {"", namespace}, {name, ""}, {"", ""}} {
		key := strings.TrimSpace(fmt.Sprint(verb, " ", resource, " ", of[0], " ", of[1]))
		if _, ok = s.rights[key]; ok {
			s.rights[key] = true
			return resource, true
		}
	}
	if key := strings.TrimSpace(fmt.Sprint(verb, " ", resource, " ", name, " ", namespace)); !slices.Contains(s.denied, key) {
		s.denied = append(s.denied, key)
	}
	return resource, false
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resource, ok := s.allow(r)
	w.Header().Set("Content-Type", "application/json")
	answer := func(code int, doc any) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(doc)
	}
	status := func(code int, reason string) {
		answer(code, map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code})
	}
	q := r.URL.Query()
	switch {
	case !ok:
		status(http.StatusForbidden, "Forbidden")
	case q.Get("sendInitialEvents") != "": // then lists are asked for
		status(http.StatusUnprocessableEntity, "Invalid")
	case q.Get("watch") != "":
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case resource == "subjectaccessreviews":
		answer(http.StatusCreated, map[string]any{"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "status": map[string]any{"allowed": true, "reason": "so it is"}})
	case resource == "tokenreviews":
		answer(http.StatusCreated, map[string]any{"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": map[string]any{"authenticated": true, "user": map[string]any{"username": "bob", "groups": []string{"ops"}, "extra": map[string]any{"k": []string{"v"}}}}})
	case resource == "events" && r.Method == http.MethodPost: // another one wrote it
		status(http.StatusConflict, "AlreadyExists")
	case resource == "events":
		answer(http.StatusOK, map[string]any{"kind": "Event", "apiVersion": "v1", "metadata": map[string]any{"name": "x", "namespace": "a", "resourceVersion": "1"}})
	case resource == "apiservices":
		answer(http.StatusOK, map[string]any{"kind": "APIService", "apiVersion": "apiregistration.k8s.io/v1", "spec": map[string]any{}})
	default:
		kinds := map[string]string{
			"namespaces": "v1 Namespace", "nodes": "v1 Node", "services": "v1 Service", "pods": "v1 Pod", "configmaps": "v1 ConfigMap",
			"endpointslices": "discovery.k8s.io/v1 EndpointSlice", "deployments": "apps/v1 Deployment", "statefulsets": "apps/v1 StatefulSet", "daemonsets": "apps/v1 DaemonSet", "jobs": "batch/v1 Job",
		}
		version, kind, _ := strings.Cut(kinds[resource], " ")
		items := []any{}
		if resource == "configmaps" {
			items = append(items, map[string]any{"metadata": map[string]any{"name": extension.FrontConfigMap, "namespace": extension.FrontNamespace, "uid": "1", "resourceVersion": "1"}, "data": s.front})
		}
		answer(http.StatusOK, map[string]any{"kind": kind + "List", "apiVersion": version, "metadata": map[string]any{"resourceVersion": "1"}, "items": items})
	}
}

// unused lists the rights that nobody has used yet.
func (s *apiServer) unused() (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r, used := range s.rights {
		if !used {
			out = append(out, r)
		}
	}
	slices.Sort(out)
	return out
}

// A view that has the rights of the table and no others does what it should, and
// uses each of them.
func TestViewRightsAreEnoughAndNotTooMany(t *testing.T) {
	dir := t.TempDir()
	anchor, _, err := identity.NewAnchor("cluster.local", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s := &apiServer{rights: viewRights(t), front: map[string]string{
		"requestheader-client-ca-file": string(anchor), "requestheader-username-headers": `["X-Remote-User"]`,
	}}
	server := httptest.NewServer(s)
	defer server.Close()
	for name, text := range map[string]string{
		"anchors": string(anchor), "token": "t",
		"kubeconfig": `{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"c"}}],"users":[{"name":"c","user":{}}],"clusters":[{"name":"c","cluster":{"server":"` + server.URL + `"}}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	client, err := kube.NewClient(filepath.Join(dir, "kubeconfig"), "test")
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewView(ViewConfig{
		Client: client, Listen: "127.0.0.1:0", ControlAddress: "127.0.0.1:1", TokenFile: filepath.Join(dir, "token"), AnchorsFile: filepath.Join(dir, "anchors"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Ready(); err == nil || !strings.Contains(err.Error(), "has not been read yet") {
		t.Errorf("ready before anything was read: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- v.Run(ctx) }()
	if ok, reason, err := v.may(ctx, extension.Attributes{User: extension.User{Name: "ann", Groups: []string{"dev"}}, Verb: "get", Namespace: "a", Resource: "pods", Subresource: "stat"}); !ok || reason != "so it is" || err != nil {
		t.Errorf("%v %q %v", ok, reason, err)
	}
	if u, err := v.who(ctx, "token"); err != nil || u.Name != "bob" || len(u.Groups) != 1 || len(u.Extra["k"]) != 1 {
		t.Errorf("%+v %v", u, err)
	}
	v.captured("ann", "a", "web-1")
	for end := time.Now().Add(60 * time.Second); (len(s.unused()) > 0 || v.Ready() != nil) && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if err := v.Ready(); err != nil {
		t.Error(err)
	}
	if left := s.unused(); len(left) > 0 {
		t.Errorf("rights that nothing needs:\n%s", strings.Join(left, "\n"))
	}
	server.CloseClientConnections()
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("did not stop within 30 s")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.denied) > 0 {
		t.Errorf("rights that are missing:\n%s", strings.Join(s.denied, "\n"))
	}
}

// What a view cannot do without is asked for at once.
func TestViewIsRefused(t *testing.T) {
	if _, err := NewView(ViewConfig{}); err == nil || !strings.Contains(err.Error(), "client, token file and trust anchors file") {
		t.Error(err)
	}
}
