package health

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/installation"
	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/deploy/manifest"
)

// agents is the node agents' DaemonSet.
const agents = "mesh-cni"

// existence checks that the control plane is there and answers.
func (r *run) existence(ctx context.Context) {
	r.category("tunmesh-existence")
	r.check(fatal, "'tunmesh-config' config map exists", "installed", func() error {
		there, err := installation.Find(ctx, r.Kube)
		if errors.Is(err, installation.ErrNone) {
			return fmt.Errorf("%w: meshctl install prints what installs it", err)
		}
		r.seen.installed = there
		return err
	})
	r.check(fails, "control plane Deployment exists", "installed", func() error {
		d, err := r.Kube.AppsV1().Deployments(manifest.Namespace).Get(ctx, control.ServiceAccount, metav1.GetOptions{})
		if err == nil {
			r.seen.control = d
		}
		return err
	})
	r.check(fails, "can list the control plane's pods", "api", func() error {
		list, err := r.Kube.CoreV1().Pods(manifest.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + control.ServiceAccount})
		if err == nil {
			r.seen.replicas = list.Items
		}
		return err
	})
	r.check(waits, "control plane replicas are ready", "control-plane", r.replicasReady)
	r.check(warns, "no unschedulable pods", "unschedulable", func() error {
		var bad []string
		for i := range r.seen.replicas {
			for _, c := range r.seen.replicas[i].Status.Conditions {
				if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
					bad = append(bad, r.seen.replicas[i].Name+": "+c.Message)
				}
			}
		}
		return listed(bad)
	})
	r.check(waits, "control plane pods are ready", "control-plane", func() error {
		var bad []string
		for i := range r.seen.replicas {
			if p := &r.seen.replicas[i]; p.DeletionTimestamp == nil && !podReady(p) {
				bad = append(bad, p.Name+": "+state(p))
			}
		}
		return listed(bad)
	})
}

func (r *run) replicasReady() error {
	d := r.seen.control
	if d == nil {
		return nil // said above
	}
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	switch {
	case d.Status.ObservedGeneration < d.Generation:
		return errors.New("the latest change has not been looked at yet")
	case d.Status.UpdatedReplicas < want:
		return fmt.Errorf("%d of %d are of the latest version", d.Status.UpdatedReplicas, want)
	case d.Status.AvailableReplicas < want:
		return fmt.Errorf("%d of %d are ready", d.Status.AvailableReplicas, want)
	}
	return nil
}

func podReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// state says in a few words what keeps a pod from being ready.
func state(p *corev1.Pod) string {
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		end := c.State.Terminated
		if end == nil {
			end = c.LastTerminationState.Terminated // a container that waits to be tried again ended for a reason
		}
		w := c.State.Waiting
		if end != nil && end.ExitCode != 0 && (w != nil || c.State.Terminated != nil) {
			return fmt.Sprintf("%s ended with %d: %s", c.Name, end.ExitCode, strings.TrimSpace(end.Message))
		}
		if w != nil && w.Reason != "PodInitializing" {
			return c.Name + " waits: " + strings.TrimSuffix(w.Reason+": "+w.Message, ": ")
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Status == corev1.ConditionFalse && c.Message != "" {
			return c.Message
		}
	}
	return string(p.Status.Phase)
}

// objects checks what else install made.
func (r *run) objects(ctx context.Context) {
	r.category("tunmesh-config")
	core, rbac := r.Kube.CoreV1(), r.Kube.RbacV1()
	get := metav1.GetOptions{}
	both := func(f func(namespace string) error) func() error {
		return func() error { return errors.Join(f(manifest.Namespace), f(manifest.CNINamespace)) }
	}
	r.check(fails, "control plane Namespaces exist", "objects", both(func(ns string) error {
		_, err := core.Namespaces().Get(ctx, ns, get)
		return err
	}))
	r.check(fails, "control plane ServiceAccounts exist", "objects", func() error {
		_, one := core.ServiceAccounts(manifest.Namespace).Get(ctx, control.ServiceAccount, get)
		_, two := core.ServiceAccounts(manifest.CNINamespace).Get(ctx, agents, get)
		return errors.Join(one, two)
	})
	r.check(fails, "control plane ClusterRoles exist", "objects", func() error {
		_, err := rbac.ClusterRoles().Get(ctx, "tunmesh-control", get)
		return err
	})
	r.check(fails, "control plane ClusterRoleBindings exist", "objects", func() error {
		_, err := rbac.ClusterRoleBindings().Get(ctx, "tunmesh-control", get)
		return err
	})
	r.check(fails, "control plane Roles exist", "objects", both(func(ns string) error {
		_, err := rbac.Roles(ns).Get(ctx, control.ServiceAccount, get)
		return err
	}))
	r.check(fails, "control plane RoleBindings exist", "objects", both(func(ns string) error {
		_, err := rbac.RoleBindings(ns).Get(ctx, control.ServiceAccount, get)
		return err
	}))
	r.check(fails, "control plane Services exist", "objects", func() error {
		_, one := core.Services(manifest.Namespace).Get(ctx, control.ServiceAccount, get)
		_, two := core.Services(manifest.Namespace).Get(ctx, control.WebhookService, get)
		return errors.Join(one, two)
	})
	r.check(fails, "control plane MutatingWebhookConfigurations exist", "objects", func() error {
		w, err := r.Kube.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, control.WebhookConfiguration, get)
		if err == nil {
			r.seen.webhook = w
		}
		return err
	})
}

// agents checks the node agents.
func (r *run) agents(ctx context.Context) {
	r.category("tunmesh-cni")
	var set *appsv1.DaemonSet
	r.check(fails, "node agents' DaemonSet exists", "agents", func() error {
		d, err := r.Kube.AppsV1().DaemonSets(manifest.CNINamespace).Get(ctx, agents, metav1.GetOptions{})
		if err == nil {
			set = d
		}
		return err
	})
	r.check(waits, "node agents are ready on all nodes", "agents", func() error {
		if set == nil {
			return nil // said above
		}
		pods, err := r.Kube.CoreV1().Pods(manifest.CNINamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + agents})
		if err != nil {
			return err
		}
		return r.agentsReady(set, pods.Items)
	})
	r.check(waits, "node agents have the trust anchors in force", "anchors", func() error {
		want, err := r.Kube.CoreV1().ConfigMaps(manifest.Namespace).Get(ctx, control.AnchorsConfigMap, metav1.GetOptions{})
		if err != nil {
			return err
		}
		have, err := r.Kube.CoreV1().ConfigMaps(manifest.CNINamespace).Get(ctx, control.AnchorsConfigMap, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("the control plane has not copied them to %s yet", manifest.CNINamespace)
		}
		if err != nil {
			return err
		}
		if !sameAnchors(want.Data[control.AnchorsKey], have.Data[control.AnchorsKey], r.Now()) {
			return fmt.Errorf("ConfigMap %s/%s has others than %s/%s", manifest.CNINamespace, control.AnchorsConfigMap, manifest.Namespace, control.AnchorsConfigMap)
		}
		return nil
	})
}

func (r *run) agentsReady(set *appsv1.DaemonSet, pods []corev1.Pod) error {
	on := map[string]*corev1.Pod{}
	for i := range pods {
		if p := &pods[i]; p.DeletionTimestamp == nil {
			on[p.Spec.NodeName] = p
		}
	}
	var bad []string
	for i := range r.seen.nodes {
		n := &r.seen.nodes[i]
		if !selected(set, n) {
			continue
		}
		switch p := on[n.Name]; {
		case p == nil:
			bad = append(bad, n.Name+" has none: no pod can be meshed there")
		case !podReady(p):
			bad = append(bad, n.Name+", "+p.Name+": "+state(p))
		}
	}
	if bad == nil && set.Status.UpdatedNumberScheduled < set.Status.DesiredNumberScheduled {
		bad = append(bad, fmt.Sprintf("%d of %d are of the latest version", set.Status.UpdatedNumberScheduled, set.Status.DesiredNumberScheduled))
	}
	return listed(bad)
}

// selected reports whether a DaemonSet means a node, as far as its labels tell.
func selected(set *appsv1.DaemonSet, n *corev1.Node) bool {
	for k, v := range set.Spec.Template.Spec.NodeSelector {
		if n.Labels[k] != v {
			return false
		}
	}
	return true
}
