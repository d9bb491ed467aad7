package control_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/control/kube"
	"github.com/tunmesh/tunmesh/control/sourcetest"
)

// right is one verb of one row of the table of what the control plane needs.
type right struct{ namespace, resource, name, verb string }

// readRights reads the control plane's rows of the table, which the chart's rules
// are held against as well; those of the repair of pods among them.
func readRights(t *testing.T) (out []right) {
	t.Helper()
	text, err := os.ReadFile("../docs/rights.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| account | resource |")
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !strings.HasPrefix(cells[1], " mesh-control") {
			continue
		}
		resources, namespace, _ := strings.Cut(strings.TrimSpace(cells[2]), " in ")
		resources, _, _ = strings.Cut(resources, " (") // the API group
		resources, name, _ := strings.Cut(resources, " `")
		for resource := range strings.SplitSeq(resources, ", ") {
			for verb := range strings.SplitSeq(strings.TrimSpace(cells[3]), ", ") {
				out = append(out, right{strings.Trim(namespace, "`"), resource, strings.Trim(name, "`"), verb})
			}
		}
	}
	if len(out) < 40 {
		t.Fatalf("only %d rights found", len(out))
	}
	return out
}

// guard is an API server that knows rights, and remembers which were used.
type guard struct {
	mu     sync.Mutex
	rights map[right]bool // whether it was used
	denied []string
}

// allow judges as RBAC does: list and watch are of a name where their field
// selector says so, and create is of none.
func (g *guard) allow(a clienttesting.Action) error {
	name := ""
	only := func(f fields.Selector) { name, _ = f.RequiresExactMatch(metav1.ObjectNameField) }
	switch a := a.(type) {
	case clienttesting.ListActionImpl:
		only(a.ListRestrictions.Fields)
	case clienttesting.WatchActionImpl:
		only(a.WatchRestrictions.Fields)
	case clienttesting.GetActionImpl:
		name = a.Name
	case clienttesting.UpdateActionImpl:
		m, err := meta.Accessor(a.Object)
		if err != nil {
			return err
		}
		name = m.GetName()
	}
	resource := a.GetResource().Resource
	if sub := a.GetSubresource(); sub != "" {
		resource += "/" + sub
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	ok := false
	for r := range g.rights {
		if r.verb == a.GetVerb() && r.resource == resource && (r.namespace == "" || r.namespace == a.GetNamespace()) && (r.name == "" || r.name == name) {
			g.rights[r], ok = true, true
		}
	}
	if ok {
		return nil
	}
	what := strings.TrimSpace(fmt.Sprintf("%s %s %s in %q", a.GetVerb(), resource, name, a.GetNamespace()))
	if !slices.Contains(g.denied, what) {
		g.denied = append(g.denied, what)
	}
	return apierrors.NewForbidden(a.GetResource().GroupResource(), name, errors.New("no right"))
}

// through is the way to a cluster of somebody with these rights only.
func (g *guard) through(to *fake.Clientset) kube.Client {
	c := fake.NewClientset()
	c.PrependReactor("*", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if err := g.allow(a); err != nil {
			return true, nil, err
		}
		o, err := to.Invokes(a, nil)
		return true, o, err
	})
	c.PrependWatchReactor("*", func(a clienttesting.Action) (bool, watch.Interface, error) {
		if err := g.allow(a); err != nil {
			return true, nil, err
		}
		w, err := to.InvokesWatch(a)
		return true, w, err
	})
	return c
}

// unused lists the rights that nobody has used yet.
func (g *guard) unused() (out []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for r, used := range g.rights {
		if !used {
			out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s in %q", r.verb, r.resource, r.name, r.namespace)))
		}
	}
	slices.Sort(out)
	return out
}

// A control plane that has the rights of the table and no others does everything
// that it should, and uses each of them.
func TestRightsAreEnoughAndNotTooMany(t *testing.T) {
	g := &guard{rights: map[right]bool{}}
	for _, r := range readRights(t) {
		g.rights[r] = false
	}
	anchor, _, cert, key := authority(t)
	c := startThrough(t, func(to *fake.Clientset) kube.Client {
		// The first event is there from another replica.
		var twice atomic.Bool
		to.PrependReactor("create", "events", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if twice.Swap(true) {
				return false, nil, nil
			}
			ev := a.(clienttesting.CreateAction).GetObject().(*corev1.Event)
			if err := to.Tracker().Add(ev.DeepCopy()); err != nil {
				return true, nil, err
			}
			return true, nil, apierrors.NewAlreadyExists(a.GetResource().GroupResource(), ev.Name)
		})
		// A namespace that comes with its pod; the watch is told by hand, and later.
		to.PrependReactor("get", "namespaces", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, sourcetest.Namespace("new", "tunmesh.io/inject", "enabled"), nil
		})
		return g.through(to)
	}, anchors(anchor), issuer(cert, key))
	bundle := c.believed()
	pool := poolOf(t, anchor)
	if _, err := c.certify("a uid-a", ouraud, ownID, pool); err != nil {
		t.Error(err)
	}
	if _, err := c.certify("gone uid-gone", ouraud, ownID, pool); err == nil {
		t.Error("a pod that nobody knows is certified")
	}
	c.ask(bundle, "default", `{"metadata":{"name":"x","annotations":{"config.tunmesh.io/nope":"1"}},"spec":{"containers":[{"name":"app"}]}}`)
	if resp := c.ask(bundle, "new", `{"metadata":{"name":"x"},"spec":{"containers":[{"name":"app"}]}}`); len(resp.Patch) == 0 {
		t.Errorf("a pod of a new namespace: %+v", resp)
	}
	// A pod that came through without being asked about, beside an agent.
	c.put(agent("n1"))
	c.put(bare("bare", "10.1.0.9"))
	// Somebody breaks what the control plane keeps.
	broken := anchors(nil)
	broken.Namespace = "tunmesh-cni"
	c.put(broken)
	c.put(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: control.Namespace, Name: control.WebhookSecret}})
	for end := time.Now().Add(60 * time.Second); len(g.unused()) > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if left := g.unused(); len(left) > 0 {
		t.Errorf("rights that nothing needs:\n%s", strings.Join(left, "\n"))
	}
	c.end() // nobody asks any more
	if len(g.denied) > 0 {
		t.Errorf("rights that are missing:\n%s", strings.Join(g.denied, "\n"))
	}
}

// The guard itself: a right is for its verb, its name and its namespace.
func TestGuard(t *testing.T) {
	g := &guard{rights: map[right]bool{
		{"tunmesh", "secrets", "one", "list"}: false, {"", "pods", "", "get"}: false,
	}}
	c := g.through(fake.NewClientset())
	ctx := t.Context()
	for what, try := range map[string]func() error{
		"another name": func() error {
			_, err := c.CoreV1().Secrets("tunmesh").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=two"})
			return err
		},
		"all names": func() error { _, err := c.CoreV1().Secrets("tunmesh").List(ctx, metav1.ListOptions{}); return err },
		"another namespace": func() error {
			_, err := c.CoreV1().Secrets("other").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=one"})
			return err
		},
		"another verb": func() error { _, err := c.CoreV1().Pods("a").List(ctx, metav1.ListOptions{}); return err },
	} {
		if err := try(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := c.CoreV1().Secrets("tunmesh").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=one"}); err != nil {
		t.Error(err)
	}
	if _, err := c.CoreV1().Pods("a").Get(ctx, "x", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a right that there is: %v", err)
	}
	if len(g.unused()) != 0 || len(g.denied) != 4 {
		t.Errorf("unused %v, denied %v", g.unused(), g.denied)
	}
}
