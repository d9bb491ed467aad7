package holder

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/ctl"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/sandbox"
	"github.com/tunmesh/tunmesh/control/files"
	"github.com/tunmesh/tunmesh/internal/version"
)

// Status implements ctl.Handler.
func (h *holder) Status(ctx context.Context) ctl.Status {
	s := ctl.Status{Version: version.String()}
	s.Control, s.Agent = h.health(ctx)
	for _, t := range h.store.Set().Templates() {
		s.Pods += int(t.Replicas)
	}
	for _, p := range h.kubelet.Pods() {
		switch {
		case p.DeletionTimestamp != nil:
		case ready(p) || p.Status.Phase == corev1.PodSucceeded:
			s.Ready++
		default:
			s.Waiting = append(s.Waiting, p.Namespace+"/"+p.Name+": "+Why(p))
		}
	}
	return s
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Why says in a few words what a pod that is not ready waits for.
func Why(p *corev1.Pod) string {
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for i, c := range list {
			switch w, t := c.State.Waiting, c.State.Terminated; {
			case w != nil && w.Reason != "ContainerCreating":
				return c.Name + ": " + w.Reason + ": " + w.Message
			case w != nil && p.Status.PodIP == "":
				return "its sandbox is being made"
			case t != nil && t.ExitCode != 0:
				return fmt.Sprintf("%s ended with code %d", c.Name, t.ExitCode)
			case c.State.Running != nil && c.Started != nil && !*c.Started:
				return c.Name + " has not started yet"
			case c.State.Running != nil && !c.Ready && (len(list) == len(p.Status.ContainerStatuses) || i == 0):
				return c.Name + " is not ready"
			}
		}
	}
	return string(p.Status.Phase)
}

// Apply implements ctl.Handler.
func (h *holder) Apply(_ context.Context, manifests []files.File) (ctl.Applied, error) {
	all, err := files.ParseAll(manifests)
	if err != nil {
		return ctl.Applied{}, err
	}
	warnings := files.Warnings(all)
	results, err := h.store.Apply(all)
	if err != nil {
		return ctl.Applied{}, err
	}
	h.kubelet.Apply(h.store.Set())
	return ctl.Applied{Results: results, Warnings: warnings}, nil
}

// Delete implements ctl.Handler.
func (h *holder) Delete(_ context.Context, d ctl.Delete) error {
	if d.Kind == "pod" {
		for _, p := range h.store.Set().Pods {
			if p.Namespace == d.Namespace && p.Name == d.Name { // a Pod of its own
				return h.remove(d)
			}
		}
		return h.kubelet.Delete(d.Namespace, d.Name)
	}
	return h.remove(d)
}

func (h *holder) remove(d ctl.Delete) error {
	if err := h.store.Delete(d.Kind, d.Namespace, d.Name); err != nil {
		return err
	}
	h.kubelet.Apply(h.store.Set())
	return nil
}

// Exec implements ctl.Handler.
func (h *holder) Exec(ctx context.Context, e ctl.Exec, stdin, stdout, stderr *os.File) (*sandbox.Process, error) {
	return h.kubelet.Exec(ctx, e.Namespace, e.Pod, e.Container, e.Argv, e.TTY, stdin, stdout, stderr)
}

// Dial implements ctl.Handler.
func (h *holder) Dial(ctx context.Context, d ctl.Dial) (*os.File, error) {
	switch {
	case d.Service == "" && d.Pod == "":
		return dialOwn(ctx, d.Port)
	case d.Service == "":
		return h.kubelet.Dial(ctx, d.Namespace, d.Pod, d.Port)
	}
	pod, port, err := h.backend(d)
	if err != nil {
		return nil, err
	}
	return h.kubelet.Dial(ctx, d.Namespace, pod, port)
}

// dialOwn connects to a port of the namespace that the control plane shares with the
// holder.
func dialOwn(ctx context.Context, port uint16) (*os.File, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("reach the control plane: %w", err)
	}
	defer c.Close()
	return c.(*net.TCPConn).File()
}

// backend finds a ready pod of a Service, and the pod's port.
func (h *holder) backend(d ctl.Dial) (pod string, port uint16, err error) {
	var svc *corev1.Service
	for _, s := range h.store.Set().Services {
		if s.Namespace == d.Namespace && s.Name == d.Service {
			svc = s
		}
	}
	if svc == nil {
		return "", 0, fmt.Errorf("there is no Service %s in namespace %s", d.Service, d.Namespace)
	}
	for _, sp := range svc.Spec.Ports {
		if uint16(sp.Port) != d.Port || sp.Protocol != corev1.ProtocolTCP {
			continue
		}
		for _, p := range h.kubelet.Pods() {
			if p.Namespace != d.Namespace || p.DeletionTimestamp != nil || !ready(p) ||
				len(svc.Spec.Selector) == 0 || !labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(p.Labels)) {
				continue
			}
			if n := targetPort(p, sp); n != 0 {
				return p.Name, n, nil
			}
		}
		return "", 0, fmt.Errorf("service %s in namespace %s has no ready pod", d.Service, d.Namespace)
	}
	return "", 0, fmt.Errorf("service %s in namespace %s has no TCP port %d", d.Service, d.Namespace, d.Port)
}

func targetPort(p *corev1.Pod, sp corev1.ServicePort) uint16 {
	if sp.TargetPort.StrVal == "" {
		return uint16(sp.TargetPort.IntVal)
	}
	for _, c := range append(p.Spec.InitContainers[:len(p.Spec.InitContainers):len(p.Spec.InitContainers)], p.Spec.Containers...) {
		for _, cp := range c.Ports {
			if cp.Name == sp.TargetPort.StrVal {
				return uint16(cp.ContainerPort)
			}
		}
	}
	return 0
}

// Down implements ctl.Handler: it returns when the pods have ended; the holder
// ends right after.
func (h *holder) Down(ctx context.Context, d ctl.Down) error {
	h.end(downCause{grace: d.Grace})
	select {
	case <-h.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
