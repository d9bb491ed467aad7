package kubelet

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tunmesh/tunmesh/control/files"
	"github.com/tunmesh/tunmesh/control/inject"
)

// workload is something that makes pods, with all that decides how.
type workload struct {
	template        files.Template
	owner           string // kind/namespace/name
	namespace, name string
	hash            string // of the template: pods with another are old
	replicas        int
	// Deployments: how many more and fewer pods than replicas while they change.
	surge, unavailable int
	// oneByOne replaces all old pods before new ones come (Recreate, DaemonSet, Pod).
	oneByOne bool
	// parallel StatefulSets do not wait for the one before.
	parallel bool
}

func workloadOf(t files.Template) workload {
	w := workload{
		template: t, namespace: t.Object.GetNamespace(), name: t.Object.GetName(),
		replicas: int(t.Replicas), hash: templateHash(t),
	}
	w.owner = t.Kind + "/" + key(w.namespace, w.name)
	switch o := t.Object.(type) {
	case *appsv1.Deployment:
		w.oneByOne = o.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType
		w.surge, w.unavailable = rolling(o.Spec.Strategy.RollingUpdate, w.replicas)
	case *appsv1.StatefulSet:
		w.parallel = o.Spec.PodManagementPolicy == appsv1.ParallelPodManagement
	default:
		w.oneByOne = true
	}
	return w
}

// rolling reads a Deployment's bounds; the default of both is 25 %.
func rolling(r *appsv1.RollingUpdateDeployment, replicas int) (surge, unavailable int) {
	quarter := intstr.FromString("25%")
	s, u := &quarter, &quarter
	if r != nil && r.MaxSurge != nil {
		s = r.MaxSurge
	}
	if r != nil && r.MaxUnavailable != nil {
		u = r.MaxUnavailable
	}
	surge, _ = intstr.GetScaledValueFromIntOrPercent(s, replicas, true)
	unavailable, _ = intstr.GetScaledValueFromIntOrPercent(u, replicas, false)
	if surge <= 0 && unavailable <= 0 {
		unavailable = 1 // else nothing could ever change
	}
	return max(surge, 0), max(unavailable, 0)
}

func templateHash(t files.Template) string {
	raw, err := json.Marshal(struct {
		Labels, Annotations map[string]string
		Spec                *corev1.PodSpec
	}{t.Meta.Labels, t.Meta.Annotations, t.Spec})
	if err != nil { // values that were decoded from JSON encode
		raw = []byte(err.Error())
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:5])
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// pod makes the object of a pod named name ("" makes a name up), injected where
// it or its namespace asks for it.
func (w *workload) pod(name string, namespace map[string]string, cfg inject.Config) (*corev1.Pod, error) {
	p := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: *w.template.Meta.DeepCopy(),
		Spec:       *w.template.Spec.DeepCopy(),
	}
	if name == "" {
		name = w.name + "-" + randomHex(3)
		if w.template.Kind == "Deployment" {
			name = w.name + "-" + w.hash + "-" + randomHex(3)
		}
	}
	p.Name, p.Namespace = name, w.namespace
	u := randomHex(16)
	p.UID = types.UID(fmt.Sprintf("%s-%s-4%s-a%s-%s", u[:8], u[8:12], u[13:16], u[17:20], u[20:]))
	p.CreationTimestamp = metav1.Now()
	p.Labels = maps.Clone(p.Labels)
	label := func(k, v string) {
		if p.Labels == nil {
			p.Labels = map[string]string{}
		}
		p.Labels[k] = v
	}
	switch w.template.Kind {
	case "Deployment":
		label(appsv1.DefaultDeploymentUniqueLabelKey, w.hash)
	case "StatefulSet":
		label(appsv1.ControllerRevisionHashLabelKey, w.name+"-"+w.hash)
		label(appsv1.StatefulSetPodNameLabel, name)
		p.Spec.Hostname, p.Spec.Subdomain = name, w.template.ServiceName
	case "DaemonSet":
		label(appsv1.ControllerRevisionHashLabelKey, w.hash)
	}
	if w.template.Kind != "Pod" {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: "apps/v1", Kind: w.template.Kind, Name: w.name, UID: w.template.Object.GetUID(), Controller: &yes,
		}}
	}
	cfg.NamespaceAnnotations = namespace
	annotations, reason, err := inject.Pod(p.Annotations, &p.Spec, cfg)
	if err != nil {
		return nil, fmt.Errorf("inject %s: %s: %w", w.owner, reason, err)
	}
	p.Annotations = annotations
	return p, nil
}
