package kubelet

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/control/files"
	"github.com/tunmesh/tunmesh/control/inject"
)

// Refuse reports, joined, what a set asks for that this runtime does not do:
// better than pods that are not what their manifest says.
func Refuse(set *files.Set, cfg inject.Config) error {
	var errs []error
	pods := 0
	for _, t := range set.Templates() {
		pods += int(t.Replicas)
		add := func(path, why string) {
			prefix := "spec.template.spec."
			if t.Kind == "Pod" {
				prefix = "spec."
			}
			errs = append(errs, &files.Error{Origin: set.Origin(t.Object), Object: t.Kind + " " + key(t.Object.GetNamespace(), t.Object.GetName()), Path: prefix + path, Err: errors.New(why)})
		}
		refusePod(t.Spec, add)
		w := workloadOf(t)
		var namespace map[string]string
		for _, n := range set.Namespaces {
			if n.Name == w.namespace {
				namespace = n.Annotations
			}
		}
		p, err := w.pod("", namespace, cfg)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
			for i := range list {
				if _, err := identity(p, &list[i]); err != nil {
					add("containers["+list[i].Name+"].securityContext", err.Error())
				}
			}
		}
	}
	if pods > MaxPods {
		errs = append(errs, fmt.Errorf("%d pods are asked for; a local mesh runs at most %d", pods, MaxPods))
	}
	return errors.Join(errs...)
}

func refusePod(spec *corev1.PodSpec, add func(path, why string)) {
	const host = "pods of a local mesh never share the machine's namespaces: remove it"
	if spec.HostNetwork {
		add("hostNetwork", host)
	}
	if spec.HostPID {
		add("hostPID", host)
	}
	if spec.HostIPC {
		add("hostIPC", host)
	}
	if isTrue(spec.ShareProcessNamespace) {
		add("shareProcessNamespace", "containers of a local mesh have a PID namespace each: remove it")
	}
	if len(spec.EphemeralContainers) > 0 {
		add("ephemeralContainers", "use `meshctl local exec` instead")
	}
	for field, list := range map[string][]corev1.Container{"initContainers": spec.InitContainers, "containers": spec.Containers} {
		for i, c := range list {
			at := fmt.Sprintf("%s[%d].", field, i)
			if s := c.SecurityContext; s != nil && isTrue(s.Privileged) {
				add(at+"securityContext.privileged", "containers of a local mesh have at most every capability of their pod's user namespace: write capabilities: {add: [ALL]} instead")
			}
			if c.Lifecycle != nil && !onlyStarts(c.Lifecycle) {
				add(at+"lifecycle", "of hooks only a postStart with exec is run here: remove it")
			}
			if len(c.VolumeDevices) > 0 {
				add(at+"volumeDevices", "there are no block devices here: remove it")
			}
		}
	}
}

// onlyStarts: a postStart hook that runs a command, and nothing else.
func onlyStarts(l *corev1.Lifecycle) bool {
	h := l.PostStart
	return l.PreStop == nil && l.StopSignal == nil && h != nil && h.Exec != nil && h.HTTPGet == nil && h.TCPSocket == nil && h.Sleep == nil
}
