package extension

import (
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/store"
)

const (
	// Group and Version name the API; its APIService is Version.Group.
	Group   = "view.tunmesh.io"
	Version = "v1alpha1"
	// All stands in a path for every name, or every namespace. It can be nobody's.
	All = "-"
)

// Base is the path below which everything is.
const Base = "/apis/" + Group + "/" + Version

// Subresources, which are also what RBAC rules grant.
const (
	subStat      = "stat"
	subTap       = "tap"
	subHeaders   = "tap/headers" // nobody asks for it by path: a tap that wants header fields
	subEndpoints = "endpoints"
	subPolicy    = "policy"
	subPcap      = "pcap"
	subConns     = "connections"
	subEdges     = "edges"
	subRoutes    = "routes"
	health       = "health"
	consoleFiles = "console" // …/console/NAME: the page's files
	why          = "why"
	subSeries    = "series"
	// prometheus/api/v1/…: RBAC reads resource prometheus, name api, subresource v1.
	prometheus     = "prometheus"
	prometheusName = "api"
	subPrometheus  = "v1"
)

// resources maps the plural that paths have to the query API's kind.
func resources() map[string]string {
	return map[string]string{
		"pods": "pod", "services": "service", "namespaces": "namespace",
		"deployments": "deployment", "statefulsets": "statefulset", "daemonsets": "daemonset",
		"jobs": "job", "cronjobs": "cronjob", "replicasets": "replicaset", "replicationcontrollers": "replicationcontroller", "authorities": "authority",
	}
}

// question is what a path asks.
type question struct {
	verb        string // get, watch or create
	namespace   string // "" = all
	resource    string
	name        string // "" = all
	api         string // of prometheus: what follows v1/
	subresource string // "" only of health, why and console
}

// parse reads what follows Base in a path.
func parse(path string) (question, bool) {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	q := question{verb: "get"}
	if len(parts) == 1 && parts[0] == health {
		q.resource = health
		return q, true
	}
	if len(parts) == 2 && parts[0] == consoleFiles && parts[1] != "" {
		q.resource, q.name = consoleFiles, parts[1]
		return q, true
	}
	if len(parts) == 1 && parts[0] == why {
		q.resource, q.verb = why, "create"
		return q, true
	}
	if rest, ok := strings.CutPrefix(path, prometheus+store.Prefix); ok {
		q.resource, q.name, q.subresource, q.api = prometheus, prometheusName, subPrometheus, rest
		return q, store.Known(rest)
	}
	if parts[0] == "watch" {
		q.verb, parts = "watch", parts[1:]
	}
	if len(parts) != 5 || parts[0] != "namespaces" {
		return q, false
	}
	q.namespace, q.resource, q.name, q.subresource = named(parts[1]), parts[2], named(parts[3]), parts[4]
	if _, ok := resources()[q.resource]; !ok || parts[1] == "" || parts[3] == "" {
		return q, false
	}
	switch q.subresource {
	case subStat, subSeries, subEdges, subRoutes:
		return q, q.verb == "get"
	case subTap:
		return q, true
	case subPcap:
		return q, q.verb == "watch" && q.resource == "pods" && q.name != "" && q.namespace != ""
	case subConns:
		return q, q.verb == "get" && q.resource == "pods" && q.name != "" && q.namespace != ""
	case subEndpoints:
		return q, q.verb == "get" && q.resource == "services" && q.name != "" && q.namespace != ""
	case subPolicy:
		return q, q.verb == "get" && (q.resource == "services" || q.resource == "pods") && q.name != "" && q.namespace != ""
	}
	return q, false
}

func named(s string) string {
	if s == All {
		return ""
	}
	return s
}

// selector is what a question names, for the query API.
func (q question) selector(labels string) *api.Selector {
	s := &api.Selector{Kind: resources()[q.resource], Name: q.name, Namespace: q.namespace, AllNamespaces: q.namespace == "", LabelSelector: labels}
	if q.resource == "namespaces" {
		// …/namespaces/NS/namespaces/NS/stat: the first says what is to be allowed.
		s.Namespace, s.AllNamespaces = "", false
		if s.Name == "" {
			s.Name = q.namespace
		}
	}
	return s
}

// consistent refuses questions about another namespace than the one that rights
// are asked for.
func (q question) consistent() bool {
	return q.resource != "namespaces" || q.namespace == "" || q.name == "" || q.name == q.namespace
}

// parseOther reads RESOURCE/NS/NAME, the other end that a question names.
func parseOther(what, s string) (*question, error) {
	if s == "" {
		return nil, nil
	}
	parts := strings.Split(s, "/")
	if len(parts) == 3 && parts[1] != "" && parts[2] != "" {
		q := &question{verb: "get", resource: parts[0], namespace: named(parts[1]), name: named(parts[2]), subresource: subStat}
		if _, ok := resources()[q.resource]; ok && q.consistent() {
			return q, nil
		}
	}
	return nil, status.Errorf(codes.InvalidArgument, "%s=%q: want RESOURCE/NAMESPACE/NAME, such as deployments/emojivoto/web, with %q for all", what, s, All)
}

// String is a question as people name it.
func (q question) String() string {
	if q.subresource == "" {
		return q.resource
	}
	return fmt.Sprintf("%s/%s", q.resource, q.subresource)
}

// ResourceOf is the plural that paths have for a kind of the query API.
func ResourceOf(kind string) (resource string, ok bool) {
	for r, k := range resources() {
		if k == kind {
			return r, true
		}
	}
	return "", false
}
