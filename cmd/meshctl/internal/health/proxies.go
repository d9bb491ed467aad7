package health

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tunmesh/tunmesh/control/inject"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

const (
	// pageSize bounds what one answer of the API server has.
	pageSize = 500
	// askAtOnce is how many sidecars are asked at the same time.
	askAtOnce = 16
)

// versions checks that the parts are of one version, and replicas apart.
func (r *run) versions(ctx context.Context) {
	r.category("control-plane-version")
	r.check(warns, "control plane and cli versions match", "versions", func() error {
		if v := r.seen.installed.Version; v != r.Version {
			return fmt.Errorf("control plane %s, meshctl %s", v, r.Version)
		}
		return nil
	})
	r.check(waits, "control plane is up-to-date", "versions", func() error {
		var bad []string
		for i := range r.seen.replicas {
			p := &r.seen.replicas[i]
			for _, c := range p.Spec.Containers {
				if p.DeletionTimestamp == nil && !strings.HasSuffix(c.Image, ":"+r.seen.installed.Version) {
					bad = append(bad, p.Name+" runs "+c.Image)
				}
			}
		}
		return listed(bad)
	})
	if d := r.seen.control; d != nil && d.Spec.Replicas != nil && *d.Spec.Replicas > 1 {
		r.category("tunmesh-ha-checks")
		r.check(warns, "multiple replicas of control plane pods", "ha", func() error {
			nodes := map[string]bool{}
			for i := range r.seen.replicas {
				if podReady(&r.seen.replicas[i]) {
					nodes[r.seen.replicas[i].Spec.NodeName] = true
				}
			}
			if len(nodes) < 2 && len(r.seen.nodes) > 1 {
				return errors.New("all that are ready run on one node")
			}
			return nil
		})
	}
	r.category("tunmesh-data-plane")
	r.check(warns, "pods that should have a sidecar have one", "unmeshed", func() error { return r.unmeshed(ctx) })
}

// unmeshed names pods without the sidecar that they or their namespace ask for.
func (r *run) unmeshed(ctx context.Context) error {
	spaces, err := r.Kube.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	asked := map[string]*corev1.Namespace{}
	for i := range spaces.Items {
		if n := &spaces.Items[i]; r.webhookAsked(n) {
			asked[n.Name] = n
		}
	}
	var bad []string
	err = r.eachPod(ctx, r.Namespace, func(p *corev1.Pod) {
		n := asked[p.Namespace]
		if n == nil || p.Annotations[annotation.Injected] != "" || p.Spec.HostNetwork {
			return
		}
		if inject.Wanted(p.Annotations, inject.Config{OptIn: true, NamespaceAnnotations: n.Annotations}) {
			bad = append(bad, p.Namespace+"/"+p.Name)
		}
	})
	if err != nil {
		return err
	}
	return listed(bad)
}

// webhookAsked reports whether the injector is asked about a namespace's pods.
func (r *run) webhookAsked(n *corev1.Namespace) bool {
	if r.seen.webhook == nil {
		return true
	}
	return slices.ContainsFunc(r.seen.webhook.Webhooks, func(h admissionregistrationv1.MutatingWebhook) bool {
		s, err := metav1.LabelSelectorAsSelector(h.NamespaceSelector)
		return err == nil && s.Matches(labels.Set(n.Labels))
	})
}

// eachPod calls f for all pods of a namespace, or of all, that are not over.
func (r *run) eachPod(ctx context.Context, namespace string, f func(*corev1.Pod)) error {
	opts := metav1.ListOptions{Limit: pageSize}
	for {
		list, err := r.Kube.CoreV1().Pods(namespace).List(ctx, opts)
		if err != nil {
			return err
		}
		for i := range list.Items {
			if p := &list.Items[i]; p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
				f(p)
			}
		}
		if opts.Continue = list.Continue; opts.Continue == "" {
			return nil
		}
	}
}

// proxies checks the sidecars.
func (r *run) proxies(ctx context.Context) {
	if r.Namespace != "" {
		r.check(fails, "data plane namespace exists", "namespace", func() error {
			_, err := r.Kube.CoreV1().Namespaces().Get(ctx, r.Namespace, metav1.GetOptions{})
			return err
		})
	}
	var (
		unready, old, other []string
		ready               []*corev1.Pod
	)
	r.check(fails, "can list the data plane's pods", "api", func() error {
		return r.eachPod(ctx, r.Namespace, func(p *corev1.Pod) {
			v := p.Annotations[annotation.Injected]
			if v == "" {
				return
			}
			name := p.Namespace + "/" + p.Name
			if why := sidecarState(p); why != "" {
				unready = append(unready, name+": "+why)
			} else {
				ready = append(ready, p)
			}
			if v != r.seen.installed.Version {
				old = append(old, name+" has "+v)
			}
			if v != r.Version {
				other = append(other, name+" has "+v)
			}
		})
	})
	r.check(waits, "data plane proxies are ready", "proxies", func() error { return listed(unready) })
	r.check(warns, "data plane is up-to-date", "proxy-versions", func() error { return listed(old) })
	r.check(warns, "data plane and cli versions match", "proxy-versions", func() error { return listed(other) })
	r.check(warns, "data plane proxies have certificates of the issuer and the trust anchors in force", "proxy-certificates", func() error {
		if r.seen.issuer == nil {
			return nil // said above
		}
		return r.proxyCertificates(ctx, ready)
	})
}

// proxyCertificates names pods whose sidecar has a certificate that another issuer
// signed, or believes other anchors, after counting them: they renew within half a
// minute of a rotation.
func (r *run) proxyCertificates(ctx context.Context, pods []*corev1.Pod) error {
	said := make([]string, len(pods))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(askAtOnce)
	for i, p := range pods {
		g.Go(func() error {
			if why := r.proxyCertificate(ctx, p); why != "" {
				said[i] = p.Namespace + "/" + p.Name + " " + why
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	bad := slices.DeleteFunc(said, func(s string) bool { return s == "" })
	if len(bad) == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d have not:\n%w", len(bad), len(pods), listed(bad))
}

// proxyCertificate says what is old about a sidecar's certificates.
func (r *run) proxyCertificate(ctx context.Context, p *corev1.Pod) string {
	ask := func(path string) ([]*x509.Certificate, string) {
		text, err := r.Get(ctx, p, strconv.Itoa(annotation.AdminPort), path)
		if err != nil {
			return nil, "does not say: " + err.Error()
		}
		list, err := certificates(text)
		if err != nil || len(list) == 0 {
			return nil, "says what is no certificate"
		}
		return list, ""
	}
	chain, why := ask("certificate")
	if why != "" {
		return why
	}
	if chain[0].CheckSignatureFrom(r.seen.issuer) != nil {
		return "has one of " + chain[0].Issuer.String() + ", until " + chain[0].NotAfter.UTC().Format(time.RFC3339)
	}
	believed, why := ask("trust-anchors")
	if why != "" {
		return why
	}
	if !same(r.seen.anchors, believed, r.Now()) {
		return "believes other trust anchors"
	}
	return ""
}

// sidecarState is what keeps a pod's sidecar from being ready, "" when nothing does.
func sidecarState(p *corev1.Pod) string {
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		switch {
		case c.Name != annotation.SidecarContainer || c.Ready:
			continue
		case c.State.Waiting != nil:
			return "it waits: " + strings.TrimSuffix(c.State.Waiting.Reason+": "+c.State.Waiting.Message, ": ")
		case c.State.Terminated != nil:
			return fmt.Sprintf("it ended with %d: %s", c.State.Terminated.ExitCode, c.State.Terminated.Message)
		}
		return fmt.Sprintf("it is not ready, after %d restarts", c.RestartCount)
	}
	if !slices.ContainsFunc(p.Status.InitContainerStatuses, func(c corev1.ContainerStatus) bool { return c.Name == annotation.SidecarContainer }) {
		return "it was not started: " + state(p)
	}
	return ""
}
