package query

import (
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/labels"

	api "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/files"
)

// kind is a kind of resource that people ask about. Its name is also its label
// in metrics.
type kind string

const (
	deployment  kind = "deployment"
	statefulSet kind = "statefulset"
	daemonSet   kind = "daemonset"
	pod         kind = "pod"
	service     kind = "service"
	namespace   kind = "namespace"

	// The mesh does not follow objects of these: there are those that own pods.
	job                   kind = "job"
	replicaSet            kind = "replicaset"
	replicationController kind = "replicationcontroller"
	cronJob               kind = "cronjob" // whose Jobs own pods

	// authority is a name that requests ask for; there are those with figures.
	authority kind = "authority"
)

// parseKind reads a kind, its plural, or its short form.
func parseKind(s string) (kind, error) {
	switch strings.ToLower(s) {
	case "deployment", "deployments", "deploy":
		return deployment, nil
	case "statefulset", "statefulsets", "sts":
		return statefulSet, nil
	case "daemonset", "daemonsets", "ds":
		return daemonSet, nil
	case "pod", "pods", "po":
		return pod, nil
	case "service", "services", "svc":
		return service, nil
	case "namespace", "namespaces", "ns":
		return namespace, nil
	case "job", "jobs":
		return job, nil
	case "cronjob", "cronjobs", "cj":
		return cronJob, nil
	case "replicaset", "replicasets", "rs":
		return replicaSet, nil
	case "replicationcontroller", "replicationcontrollers", "rc":
		return replicationController, nil
	case "authority", "authorities", "au":
		return authority, nil
	}
	return "", status.Errorf(codes.InvalidArgument, "kind %q is not known: use deployment, statefulset, daemonset, job, cronjob, replicaset, replicationcontroller, pod, service, namespace or authority (or deploy, sts, ds, cj, rs, rc, po, svc, ns, au)", s)
}

// owners are the kinds of what pods belong to, and the labels that name it. A pod that
// has several of them is called by the first.
func owners() []kind {
	return []kind{deployment, statefulSet, daemonSet, job, cronJob, replicaSet, replicationController}
}

// workload is Kubernetes' name of a workload's kind; "" for other kinds.
func (k kind) workload() string {
	switch k {
	case deployment:
		return catalog.KindDeployment
	case statefulSet:
		return catalog.KindStatefulSet
	case daemonSet:
		return catalog.KindDaemonSet
	case job:
		return catalog.KindJob
	case cronJob:
		return catalog.KindCronJob
	case replicaSet:
		return "ReplicaSet"
	case replicationController:
		return "ReplicationController"
	}
	return ""
}

// resource is one resource that a selector names.
type resource struct {
	kind   kind
	key    catalog.Key // of a namespace: Namespace "" and its Name
	status string      // a pod's phase
}

// namespaceOf is the namespace whose label the resource's series carry.
func (r resource) namespaceOf() string {
	if r.kind == namespace {
		return r.key.Name
	}
	return r.key.Namespace
}

// selection is a selector, read and looked up.
type selection struct {
	kind      kind
	resources []resource // sorted
}

// choose looks up what a selector names. A name that is nobody's is NOT_FOUND.
func choose(c *catalog.Catalog, sel *api.Selector) (selection, error) {
	k, err := parseKind(sel.GetKind())
	if err != nil {
		return selection{}, err
	}
	want, err := labels.Parse(sel.GetLabelSelector())
	if err != nil {
		return selection{}, status.Errorf(codes.InvalidArgument, "label selector %q: %v", sel.GetLabelSelector(), err)
	}
	if k == authority {
		return selection{}, status.Error(codes.InvalidArgument, "authorities are names in requests: only stat knows figures of them")
	}
	ns := sel.GetNamespace()
	switch {
	case sel.GetAllNamespaces() || k == namespace:
		ns = ""
	case ns == "":
		ns = files.DefaultNamespace
	}
	s := selection{kind: k}
	for _, r := range all(c, k, ns) {
		if (sel.GetName() == "" || sel.GetName() == r.key.Name) && want.Matches(labels.Set(r.labels)) {
			s.resources = append(s.resources, r.resource)
		}
	}
	if sel.GetName() != "" && len(s.resources) == 0 {
		where := ""
		if ns != "" {
			where = " in namespace " + ns
		}
		return selection{}, status.Errorf(codes.NotFound, "there is no %s %q%s", k, sel.GetName(), where)
	}
	return s, nil
}

type labelled struct {
	resource
	labels map[string]string
}

// all lists the resources of a kind in a namespace ("": in all).
func all(c *catalog.Catalog, k kind, ns string) []labelled {
	var list []labelled
	add := func(key catalog.Key, labels map[string]string, status string) {
		list = append(list, labelled{resource{k, key, status}, labels})
	}
	switch k {
	case pod:
		for _, p := range c.Pods(ns) {
			add(p.Key, p.Labels, p.Phase)
		}
	case service:
		for _, s := range c.Services(ns) {
			add(s.Key, s.Labels, "")
		}
	case namespace:
		for _, n := range c.Namespaces() {
			add(catalog.Key{Name: n.Name}, n.Labels, "")
		}
	case job, cronJob, replicaSet, replicationController:
		seen := map[rowKey]bool{}
		for _, p := range c.Pods(ns) {
			if r, ok := k.row(c, p); ok && !seen[r] {
				seen[r] = true
				add(catalog.Key{Namespace: r.namespace, Name: r.name}, nil, "") // its labels are not followed
			}
		}
		slices.SortFunc(list, func(a, b labelled) int { return a.key.Compare(b.key) })
	default:
		for _, w := range c.Workloads(k.workload(), ns) {
			add(w.Key, w.Labels, "")
		}
	}
	return list
}

// pods lists the pods of the selection: those that its resources name, own,
// select or contain.
func (s selection) pods(c *catalog.Catalog) []*catalog.Pod {
	if s.kind == service {
		return s.selected(c)
	}
	want := make(map[rowKey]bool, len(s.resources))
	for _, r := range s.resources {
		want[r.row()] = true
	}
	var list []*catalog.Pod
	for _, p := range c.Pods("") {
		if row, ok := s.kind.row(c, p); ok && want[row] {
			list = append(list, p)
		}
	}
	return list
}

// selected lists the pods of Services, each once.
func (s selection) selected(c *catalog.Catalog) []*catalog.Pod {
	seen := map[catalog.Key]bool{}
	var list []*catalog.Pod
	for _, r := range s.resources {
		for _, p := range c.Selected(r.key) {
			if !seen[p.Key] {
				seen[p.Key] = true
				list = append(list, p)
			}
		}
	}
	return list
}

// rowKey names a row of an answer; of a namespace, both are its name.
type rowKey struct{ namespace, name string }

func (r resource) row() rowKey { return rowKey{r.namespaceOf(), r.key.Name} }

// row is the row that a pod counts in; none where no workload of the kind owns
// it, and for Services, which may share pods.
func (k kind) row(c *catalog.Catalog, p *catalog.Pod) (rowKey, bool) {
	switch k {
	case pod:
		return rowKey{p.Namespace, p.Name}, true
	case namespace:
		return rowKey{p.Namespace, p.Namespace}, true
	case service, authority:
		return rowKey{}, false
	case cronJob:
		key, ok := c.CronJob(p)
		return rowKey{key.Namespace, key.Name}, ok
	}
	return rowKey{p.Owner.Namespace, p.Owner.Name}, p.Owner.Kind == k.workload()
}

// names lists the names of the resources, and their namespaces, each once.
func (s selection) names() (names, namespaces []string) {
	seen, seenNS := map[string]bool{}, map[string]bool{}
	for _, r := range s.resources {
		if !seen[r.key.Name] {
			seen[r.key.Name] = true
			names = append(names, r.key.Name)
		}
		if ns := r.namespaceOf(); !seenNS[ns] {
			seenNS[ns] = true
			namespaces = append(namespaces, ns)
		}
	}
	return names, namespaces
}
