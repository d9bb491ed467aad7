package kube_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/kube"
	"github.com/tunmesh/tunmesh/control/sourcetest"
)

// apiServer speaks the wire of lists and watches, for what a clientset that only
// remembers does not do: streamed lists, broken connections, versions that are
// too old.
type apiServer struct {
	streams bool // it knows streamed lists; servers before 1.34 may not

	mu      sync.Mutex
	version int
	objects map[string]map[string]runtime.Object // by collection, by name
	kinds   map[string]string                    // of collections
	open    map[chan string]string               // watches, and of what
	oldest  int                                  // versions before it are gone
	last    map[string]int                       // version of a collection's last change
	asked   []string
}

func newAPIServer(t *testing.T, streams bool) (*apiServer, kube.Client) {
	t.Helper()
	s := &apiServer{streams: streams, version: 100, objects: map[string]map[string]runtime.Object{}, open: map[chan string]string{}, last: map[string]int{}, kinds: map[string]string{
		"/api/v1/namespaces": "Namespace", "/api/v1/nodes": "Node", "/api/v1/services": "Service", "/api/v1/pods": "Pod",
		"/apis/discovery.k8s.io/v1/endpointslices": "EndpointSlice", "/apis/apps/v1/deployments": "Deployment",
		"/apis/apps/v1/statefulsets": "StatefulSet", "/apis/apps/v1/daemonsets": "DaemonSet", "/apis/batch/v1/jobs": "Job", "/api/v1/namespaces/tunmesh/secrets": "Secret",
	}}
	web := httptest.NewServer(s)
	t.Cleanup(func() {
		s.hangUp()
		web.CloseClientConnections()
		web.Close()
	})
	config := filepath.Join(t.TempDir(), "kubeconfig")
	text := "apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: " + web.URL + "}}]\ncontexts: [{name: a, context: {cluster: a}}]\ncurrent-context: a\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := kube.NewClient(config, "test")
	if err != nil {
		t.Fatal(err)
	}
	return s, client
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	kind, ok := s.kinds[r.URL.Path]
	s.mu.Lock()
	s.asked = append(s.asked, r.URL.Path+"?"+q.Get("fieldSelector"))
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case !ok:
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound)
	case q.Get("watch") == "":
		s.list(w, r.URL.Path, kind)
	case q.Get("sendInitialEvents") == "true" && !s.streams:
		refuse(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)
	default:
		s.watch(w, r, kind)
	}
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: int32(code), Reason: reason, Message: "no: " + string(reason),
	})
}

func group(path string) string {
	if rest, ok := strings.CutPrefix(path, "/apis/"); ok {
		parts := strings.Split(rest, "/")
		return parts[0] + "/" + parts[1]
	}
	return "v1"
}

func (s *apiServer) list(w http.ResponseWriter, path, kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []runtime.Object{}
	for _, n := range slices.Sorted(maps.Keys(s.objects[path])) {
		items = append(items, s.objects[path][n])
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"apiVersion": group(path), "kind": kind + "List", "metadata": map[string]string{"resourceVersion": fmt.Sprint(s.version)}, "items": items,
	})
}

func (s *apiServer) watch(w http.ResponseWriter, r *http.Request, kind string) {
	path := r.URL.Path
	events := make(chan string, 1000)
	s.mu.Lock()
	var since int
	_, _ = fmt.Sscan(r.URL.Query().Get("resourceVersion"), &since)
	initial := r.URL.Query().Get("sendInitialEvents") == "true"
	switch {
	case !initial && (since < s.oldest || since < s.last[path]): // it replays nothing
		s.mu.Unlock()
		_, _ = fmt.Fprintln(w, `{"type":"ERROR","object":{"apiVersion":"v1","kind":"Status","status":"Failure","code":410,"reason":"Expired","message":"too old resource version"}}`)
		return
	case initial:
		for _, n := range slices.Sorted(maps.Keys(s.objects[path])) {
			events <- event("ADDED", s.objects[path][n])
		}
		events <- fmt.Sprintf(`{"type":"BOOKMARK","object":{"apiVersion":%q,"kind":%q,"metadata":{"resourceVersion":"%d","annotations":{"k8s.io/initial-events-end":"true"}}}}`, group(path), kind, s.version)
	}
	s.open[events] = path
	s.mu.Unlock()
	w.WriteHeader(http.StatusOK)
	for {
		_ = http.NewResponseController(w).Flush()
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			_, _ = fmt.Fprintln(w, e)
		case <-r.Context().Done():
			s.mu.Lock()
			delete(s.open, events) // hangUp may have done it
			s.mu.Unlock()
			return
		}
	}
}

func event(what string, o runtime.Object) string {
	b, err := json.Marshal(map[string]any{"type": what, "object": o})
	if err != nil {
		panic(err)
	}
	return string(b)
}

// change makes a change and tells those who watch.
func (s *apiServer) change(t *testing.T, what, path string, o runtime.Object) {
	t.Helper()
	m, err := meta.Accessor(o)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	m.SetResourceVersion(fmt.Sprint(s.version))
	s.last[path] = s.version
	// What nobody reads, and is most of an object.
	m.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "x", FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:a":"` + strings.Repeat("x", 1000) + `"}`)}}})
	if s.objects[path] == nil {
		s.objects[path] = map[string]runtime.Object{}
	}
	s.objects[path][m.GetName()] = o
	if what == "DELETED" {
		delete(s.objects[path], m.GetName())
	}
	for w, of := range s.open {
		if of == path {
			w <- event(what, o)
		}
	}
}

// hangUp ends all watches.
func (s *apiServer) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.open {
		close(w)
	}
	clear(s.open)
}

// forget makes all versions so far too old to go on from.
func (s *apiServer) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version += 10
	s.oldest = s.version
}

// TestWire: over the wire of servers that stream their lists and of those that do
// not, through broken connections and lost versions.
func TestWire(t *testing.T) {
	for name, streams := range map[string]bool{"streamed lists": true, "lists": false} {
		t.Run(name, func(t *testing.T) {
			const services, pods, slicesAt = "/api/v1/services", "/api/v1/pods", "/apis/discovery.k8s.io/v1/endpointslices"
			s, client := newAPIServer(t, streams)
			svcObject, a, b := sourcetest.Service("web", "10.96.0.1"), sourcetest.Pod("a", "10.1.0.1"), sourcetest.Pod("b", "10.1.0.2")
			sliceOf := func(ps ...corev1.Pod) runtime.Object {
				sl := slicesOf(svcObject, ps)[0]
				sl.APIVersion, sl.Kind = "discovery.k8s.io/v1", "EndpointSlice"
				return sl
			}
			s.change(t, "ADDED", services, svcObject)
			s.change(t, "ADDED", pods, a)
			s.change(t, "ADDED", slicesAt, sliceOf(*a))
			cl := run(t, sourcetest.Config(t), client)
			const one, two = " | 10.1.0.1:8080 ns/default/sa/default DETECT", " | 10.1.0.2:8080 ns/default/sa/default DETECT"
			sourcetest.Becomes(t, cl.c, "10.96.0.1:80", svc+one)
			wait(t, "watches", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.open) == len(cl.source.Kinds()) })
			s.change(t, "ADDED", pods, b)
			s.change(t, "MODIFIED", slicesAt, sliceOf(*a, *b))
			sourcetest.Becomes(t, cl.c, "10.96.0.1:80", svc+one+two)

			// The connections break, and it goes on from where it was.
			lists := cl.source.Lists(catalog.KindPod)
			s.hangUp()
			wait(t, "watches again", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.open) == len(cl.source.Kinds()) })
			s.change(t, "DELETED", pods, a)
			s.change(t, "MODIFIED", slicesAt, sliceOf(*b))
			sourcetest.Becomes(t, cl.c, "10.96.0.1:80", svc+two)
			if n := cl.source.Lists(catalog.KindPod); n != lists {
				t.Errorf("%d lists of pods, %d before the break", n, lists)
			}

			// They break, and what happened meanwhile cannot be told event by event.
			s.forget()
			s.hangUp()
			s.change(t, "DELETED", pods, b)
			s.change(t, "DELETED", slicesAt, sliceOf(*b))
			sourcetest.Becomes(t, cl.c, "10.96.0.1:80", svc)
			sourcetest.Becomes(t, cl.c, "10.1.0.2:80", "NONE DETECT")
			wait(t, "the pods are read once more", func() bool { return cl.source.Lists(catalog.KindPod) > lists })
		})
	}
}

// TestFollowAsksForOneOnly: what it may read is one object by name, so that is
// what it asks for.
func TestFollowAsksForOneOnly(t *testing.T) {
	s, client := newAPIServer(t, true)
	secret := &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Namespace: "tunmesh", Name: "issuer"}, Data: map[string][]byte{"v": []byte("1")}}
	s.change(t, "ADDED", "/api/v1/namespaces/tunmesh/secrets", secret)
	seen := make(chan string, 10)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() {
		kube.FollowSecret(ctx, client, "tunmesh", "issuer", discard(), func(s *corev1.Secret) {
			if s != nil {
				seen <- string(s.Data["v"])
			}
		})
	})
	if got := <-seen; got != "1" {
		t.Errorf("saw %q", got)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.asked {
		if a != "/api/v1/namespaces/tunmesh/secrets?metadata.name=issuer" {
			t.Errorf("asked for %s", a)
		}
	}
}
