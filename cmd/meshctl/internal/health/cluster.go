package health

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/installation"
	"github.com/tunmesh/tunmesh/deploy/manifest"
)

const (
	// oldest and newest are the versions of Kubernetes that are tested.
	oldest, newest = "1.32", "1.36"
	// oldKernel is the oldest version of Linux with pidfd_open, by which the agent
	// knows who asks it.
	oldKernel = "5.3"
	// leaseAge is how old a node's lease may be: kubelet renews it every ten seconds.
	leaseAge = 2 * time.Minute
	// skew is how far a node's clock may be ahead.
	skew = time.Minute
)

// seen is what checks share.
type seen struct {
	nodes     []corev1.Node
	installed *installation.Installed
	control   *appsv1.Deployment // nil: there is none
	replicas  []corev1.Pod
	webhook   *admissionregistrationv1.MutatingWebhookConfiguration // nil: there is none
	issuer    *x509.Certificate                                     // nil: there is none that can be read
	anchors   []*x509.Certificate
}

func (r *run) api(context.Context) {
	r.category("kubernetes-api")
	var server string
	r.check(fatal, "can query the Kubernetes API", "api", func() error {
		v, err := r.Kube.Discovery().ServerVersion()
		if err != nil {
			return err
		}
		server = v.GitVersion
		return nil
	})
	if r.ended {
		return
	}
	r.category("kubernetes-version")
	r.check(fails, "is running the minimum Kubernetes API version", "version", func() error {
		v, err := version.ParseGeneric(server)
		if err != nil {
			return err
		}
		if v.LessThan(version.MustParseGeneric(oldest)) {
			return fmt.Errorf("Kubernetes is %s: %s is needed", server, oldest)
		}
		return nil
	})
	r.check(warns, "is running a Kubernetes API version that is tested", "version", func() error {
		v, err := version.ParseGeneric(server)
		if err != nil {
			return nil //nolint:nilerr // said above
		}
		if last := version.MustParseGeneric(newest); v.Major() > last.Major() || v.Minor() > last.Minor() {
			return fmt.Errorf("Kubernetes is %s: %s is the newest that is tested", server, newest)
		}
		return nil
	})
}

func (r *run) nodes(ctx context.Context) {
	r.category("kubernetes-nodes")
	r.check(fatal, "can list nodes", "api", func() error {
		list, err := r.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		r.seen.nodes = list.Items
		return nil
	})
	r.check(warns, "nodes run a Linux kernel that is new enough", "kernel", func() error {
		return r.everyNode(func(n corev1.NodeSystemInfo) string {
			if n.OperatingSystem != "linux" {
				return n.OperatingSystem + ", where no pod can be meshed"
			}
			v, err := version.ParseGeneric(kernelNumber(n.KernelVersion))
			if err != nil || v.LessThan(version.MustParseGeneric(oldKernel)) {
				return "Linux " + n.KernelVersion + ", and " + oldKernel + " is needed"
			}
			return ""
		})
	})
	r.check(warns, "container runtimes hand pods' annotations to CNI plugins", "runtime", func() error {
		return r.everyNode(func(n corev1.NodeSystemInfo) string {
			name, _, _ := strings.Cut(n.ContainerRuntimeVersion, "://")
			if name != "containerd" && name != "cri-o" {
				return n.ContainerRuntimeVersion + ", not known to do so: containerd and CRI-O are"
			}
			return ""
		})
	})
	r.check(warns, "no clock skew detected", "clock", func() error { return r.clocks(ctx) })
}

// kernelNumber is the numbers that a kernel's version begins with, as 6.18.0 of 6.18.0-rc1.
func kernelNumber(s string) string {
	end := strings.IndexFunc(s, func(c rune) bool { return c != '.' && (c < '0' || c > '9') })
	if end >= 0 {
		s = s[:end]
	}
	return strings.Trim(s, ".")
}

// everyNode asks about each node, and names those of which there is something to say.
func (r *run) everyNode(what func(corev1.NodeSystemInfo) string) error {
	var bad []string
	for i := range r.seen.nodes {
		n := &r.seen.nodes[i]
		if why := what(n.Status.NodeInfo); why != "" {
			bad = append(bad, n.Name+" has "+why)
		}
	}
	return listed(bad)
}

// clocks compares this machine's clock with those of nodes that live, by the times
// at which they renewed their leases.
func (r *run) clocks(ctx context.Context) error {
	leases, err := r.Kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	at := map[string]time.Time{}
	for i := range leases.Items {
		if t := leases.Items[i].Spec.RenewTime; t != nil {
			at[leases.Items[i].Name] = t.Time
		}
	}
	var bad []string
	for i := range r.seen.nodes {
		n := &r.seen.nodes[i]
		renewed, ok := at[n.Name]
		if !ok || !nodeReady(n) {
			continue
		}
		switch ago := r.Now().Sub(renewed); {
		case ago < -skew:
			bad = append(bad, fmt.Sprintf("the clock of %s is %s ahead of this machine's", n.Name, (-ago).Round(time.Second)))
		case ago > leaseAge:
			bad = append(bad, fmt.Sprintf("the clock of %s is some %s behind this machine's", n.Name, ago.Round(time.Second)))
		}
	}
	return listed(bad)
}

func nodeReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// pre checks what install needs.
func (r *run) pre(ctx context.Context) {
	r.category("pre-kubernetes-setup")
	r.check(fails, "control plane is not installed already", "pre-installed", func() error {
		there, err := installation.Find(ctx, r.Kube)
		switch {
		case errors.Is(err, installation.ErrNone):
			return nil
		case err != nil:
			return err
		}
		return fmt.Errorf("tunmesh %s is installed: meshctl upgrade prints what changes it", there.Version)
	})
	kinds, err := manifest.Kinds()
	if err != nil {
		r.check(fails, "can read the chart", "pre-rights", func() error { return err })
	}
	for _, kind := range kinds {
		resource, _ := meta.UnsafeGuessKindToResource(kind)
		r.check(fails, "can create "+plural(kind.Kind), "pre-rights", func() error {
			return r.may(ctx, "create", resource.Group, resource.Resource)
		})
	}
	r.check(fails, "can read Secrets", "pre-rights", func() error { return r.may(ctx, "get", "", "secrets") })
}

func plural(kind string) string {
	if stem, ok := strings.CutSuffix(kind, "y"); ok {
		return stem + "ies"
	}
	return kind + "s"
}

// may asks whether whoever runs meshctl may do something.
func (r *run) may(ctx context.Context, verb, group, resource string) error {
	answer, err := r.Kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: namespaceOf(resource), Verb: verb, Group: group, Resource: resource,
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if !answer.Status.Allowed {
		return fmt.Errorf("%s %s: not allowed%s", verb, resource, reason(answer.Status.Reason))
	}
	return nil
}

func reason(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

// namespaceOf is where install makes things of a kind: "" for those without a namespace.
func namespaceOf(resource string) string {
	switch resource {
	case "namespaces", "clusterroles", "clusterrolebindings", "mutatingwebhookconfigurations", "apiservices":
		return ""
	}
	return manifest.Namespace
}

// most is how many things an error names.
const most = 10

// listed is an error of the things that are wrong, nil when there are none.
func listed(bad []string) error {
	if len(bad) == 0 {
		return nil
	}
	more := ""
	if len(bad) > most {
		more = "\nand " + strconv.Itoa(len(bad)-most) + " more"
		bad = bad[:most]
	}
	return errors.New(strings.Join(bad, "\n") + more)
}
