package control

import (
	"context"
	"crypto/rand"
	"errors"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/inject"
	"github.com/tunmesh/tunmesh/control/kube"
	"github.com/tunmesh/tunmesh/control/repair"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// What finds a node agent, and what is said of a pod that goes.
const (
	agentLabel, agentName = "app.kubernetes.io/name", "mesh-cni"
	repairReason          = "MadeAgain"
	repairMessage         = "evicted, so that it is made again with a sidecar that works"
)

// leftOut is why a pod would come back without a sidecar that the injector is never
// asked about.
const leftOut inject.Reason = "webhook_leaves_it_out"

// repairs is the cluster as the repair of pods sees it.
type repairs struct{ c *cluster }

// look tells which pods are to be made again, and whether that would help.
func (r *repairs) look() repair.Cluster {
	out := repair.Cluster{Agents: map[string]bool{}, Injecting: r.c.keeper.Problem() == ""}
	all := r.c.plane.catalog
	for _, p := range r.c.bare.list() {
		now, ok := all.Pod(p.Key)
		if !ok || now.UID != p.UID || now.Terminating || now.Finished() {
			continue
		}
		out.Pods = append(out.Pods, repair.Pod{
			Key: now.Key, UID: now.UID, Owner: now.Owner, Node: now.Node, Stuck: now.Outside || now.Phase == string(corev1.PodPending),
		})
	}
	if len(out.Pods) == 0 {
		return out
	}
	for _, p := range all.Pods(r.c.cfg.CNINamespace) {
		if p.Labels[agentLabel] == agentName && p.Ready && !p.Terminating {
			out.Agents[p.Node] = true
		}
	}
	return out
}

// evict evicts a pod that is still what it was, and would not come back as it is.
func (r *repairs) evict(ctx context.Context, pod repair.Pod) repair.Outcome {
	live, err := kube.GetPod(ctx, r.c.cfg.Client, pod.Key)
	switch {
	case err != nil:
		r.c.plane.log.Warn("pod is not made again for now", "err", err)
		return repair.Failed
	case live == nil || string(live.UID) != pod.UID || live.DeletionTimestamp != nil:
		return repair.Gone
	case metav1.GetControllerOf(live) == nil:
		return repair.Hopeless
	}
	if live.Annotations[annotation.Injected] == "" {
		why, err := r.refusal(ctx, live)
		if err != nil {
			r.c.plane.log.Warn("pod is not made again for now", "err", err)
			return repair.Failed
		}
		if why != "" {
			r.c.plane.log.Info("pod would come back without a sidecar", "pod", pod.String(), "reason", string(why))
			return repair.Hopeless
		}
	}
	err = kube.Evict(ctx, r.c.cfg.Client, pod.Key, pod.UID)
	switch {
	case err == nil:
		r.c.warn(&catalog.Pod{Key: pod.Key, UID: pod.UID}, repairReason, repairMessage)
		return repair.Evicted
	case errors.Is(err, kube.ErrBudget):
		return repair.Refused
	case errors.Is(err, kube.ErrGone):
		return repair.Gone
	}
	r.c.plane.log.Warn("pod is not made again for now", "err", err)
	return repair.Failed
}

// refusal is why the injector would not give a pod a sidecar; "": it would.
func (r *repairs) refusal(ctx context.Context, p *corev1.Pod) (inject.Reason, error) {
	n, err := r.c.namespace(ctx, p.Namespace)
	if err != nil {
		return "", err
	}
	if !r.c.asked.Load().of(n, p.Labels) {
		return leftOut, nil
	}
	cfg := r.c.injection()
	cfg.NamespaceAnnotations, cfg.IgnoreLinkerd = n.Annotations, r.c.linkerd.Load()
	_, why, _ := inject.Pod(p.Annotations, p.Spec.DeepCopy(), cfg)
	return why, nil
}

// processName tells this process from all others.
func processName() string {
	name, err := os.Hostname()
	if err != nil {
		name = ServiceAccount
	}
	return name + "-" + rand.Text()[:8]
}
