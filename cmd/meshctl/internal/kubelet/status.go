package kubelet

import (
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/rotate"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/sandbox"
)

// tailBytes of a container's log explain its end, where the manifest asks for it.
const tailBytes = 2048

// initStatus is the status of a pod that has nothing yet.
func (p *pod) initStatus() {
	s := &p.object.Status
	now := metav1.Now()
	*s = corev1.PodStatus{Phase: corev1.PodPending, StartTime: &now, HostIP: p.k.cfg.HostIP.String(),
		HostIPs: []corev1.HostIP{{IP: p.k.cfg.HostIP.String()}}}
	s.InitContainerStatuses = firstStatuses(p.object.Spec.InitContainers)
	s.ContainerStatuses = firstStatuses(p.object.Spec.Containers)
	p.conditions()
}

func firstStatuses(list []corev1.Container) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	no := false
	for _, c := range list {
		out = append(out, corev1.ContainerStatus{Name: c.Name, Image: c.Image, Started: &no,
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}})
	}
	return out
}

// snapshot is a copy of the pod as it stands.
func (p *pod) snapshot() *corev1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.object.DeepCopy()
}

func (p *pod) view() view {
	p.mu.Lock()
	defer p.mu.Unlock()
	return view{name: p.object.Name, hash: p.hash, ready: isReady(p.object), deleting: p.object.DeletionTimestamp != nil,
		created: p.object.CreationTimestamp.Time}
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (p *pod) address() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.object.Status.PodIP
}

// update changes the pod and tells everybody.
func (p *pod) update(change func(s *corev1.PodStatus)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.object.Status)
	p.publishLocked()
}

func (p *pod) publish() { p.update(func(*corev1.PodStatus) {}) }

func (p *pod) publishLocked() {
	p.conditions()
	if err := p.k.cfg.Status.Put(p.object.DeepCopy()); err != nil {
		p.k.cfg.Log.Error("write a pod's status", "pod", key(p.object.Namespace, p.object.Name), "error", err)
	}
	p.k.wake()
}

// conditions follow from the containers' states.
func (p *pod) conditions() {
	s := &p.object.Status
	ready, sidecars := true, true
	for _, c := range s.ContainerStatuses {
		ready = ready && c.Ready
	}
	for i, c := range s.InitContainerStatuses {
		if isSidecarSpec(&p.object.Spec.InitContainers[i]) {
			sidecars = sidecars && c.Ready
		}
	}
	initialized := s.Phase != corev1.PodPending
	if s.Phase == corev1.PodSucceeded || s.Phase == corev1.PodFailed {
		ready = false
	}
	p.condition(corev1.PodScheduled, true)
	p.condition(corev1.PodInitialized, initialized)
	p.condition(corev1.ContainersReady, initialized && ready && sidecars)
	p.condition(corev1.PodReady, initialized && ready && sidecars)
}

func (p *pod) condition(kind corev1.PodConditionType, ok bool) {
	status := corev1.ConditionFalse
	if ok {
		status = corev1.ConditionTrue
	}
	list := &p.object.Status.Conditions
	at := slices.IndexFunc(*list, func(c corev1.PodCondition) bool { return c.Type == kind })
	if at < 0 {
		*list = append(*list, corev1.PodCondition{Type: kind, Status: status, LastTransitionTime: metav1.Now()})
	} else if (*list)[at].Status != status {
		(*list)[at].Status, (*list)[at].LastTransitionTime = status, metav1.Now()
	}
}

func isSidecarSpec(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func (p *pod) setAddrs(addrs []netip.Addr) {
	p.update(func(s *corev1.PodStatus) {
		s.PodIP, s.PodIPs = "", nil
		for _, a := range addrs {
			s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: a.String()})
		}
		if len(addrs) > 0 {
			s.PodIP = addrs[0].String()
		}
	})
}

// sandboxFailed: no container runs, and there is no address any more.
func (p *pod) sandboxFailed(err error) {
	p.update(func(s *corev1.PodStatus) {
		s.PodIP, s.PodIPs = "", nil
		s.Phase = corev1.PodPending
		for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
			for i := range list {
				no := false
				list[i].Ready, list[i].Started = false, &no
				list[i].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CreatePodSandboxError", Message: err.Error()}}
			}
		}
	})
}

func (p *pod) initialized() {
	p.update(func(s *corev1.PodStatus) { s.Phase = corev1.PodRunning })
}

// finish: no container will run again.
func (p *pod) finish(phase corev1.PodPhase, message string) {
	p.update(func(s *corev1.PodStatus) { s.Phase, s.Message = phase, message })
}

func (r *runner) status(s *corev1.PodStatus) *corev1.ContainerStatus {
	if r.init {
		return &s.InitContainerStatuses[r.index]
	}
	return &s.ContainerStatuses[r.index]
}

func (p *pod) containerRuns(r *runner) {
	p.update(func(s *corev1.PodStatus) {
		c := r.status(s)
		started := r.c.StartupProbe == nil && (r.c.Lifecycle == nil || r.c.Lifecycle.PostStart == nil)
		c.Started = &started
		c.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
	})
}

// containerBegan: its postStart hook and startup probe, if it has them, succeeded.
func (p *pod) containerBegan(r *runner) {
	p.update(func(s *corev1.PodStatus) {
		yes := true
		r.status(s).Started = &yes
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.began: // at an earlier start
	default:
		close(r.began)
	}
}

func (p *pod) containerReady(r *runner, ready bool) {
	p.mu.Lock()
	same := r.status(&p.object.Status).Ready == ready
	p.mu.Unlock()
	if !same {
		p.update(func(s *corev1.PodStatus) { r.status(s).Ready = ready })
	}
}

func (p *pod) containerUnready(r *runner) { p.containerReady(r, false) }

// containerEnded tells how it ended, and when it will start again.
func (p *pod) containerEnded(r *runner, start time.Time, exit sandbox.Exit, err error, again bool, wait time.Duration) {
	t := &corev1.ContainerStateTerminated{ExitCode: int32(exit.Code), Signal: int32(exit.Signal), Reason: "Completed",
		StartedAt: metav1.NewTime(start), FinishedAt: metav1.Now()}
	switch {
	case err != nil:
		t.Reason, t.Message = "StartError", err.Error()
		p.k.cfg.Log.Warn("a container could not start", "pod", key(p.object.Namespace, p.object.Name), "container", r.c.Name, "error", err)
	case exit.Code != 0:
		t.Reason = "Error"
		if r.c.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError {
			t.Message = rotate.Tail(filepath.Join(p.logDir(), r.c.Name+".log"), tailBytes)
		}
	}
	p.update(func(s *corev1.PodStatus) {
		c := r.status(s)
		no := false
		c.Ready, c.Started = r.init && !r.sidecar && exit.Code == 0, &no
		c.State = corev1.ContainerState{Terminated: t}
		if again {
			c.RestartCount++
			c.LastTerminationState = corev1.ContainerState{Terminated: t}
			c.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{
				Reason: "CrashLoopBackOff", Message: "starts again in " + wait.Round(time.Millisecond).String() + ": " + t.Reason + " " + t.Message}}
		}
	})
}
