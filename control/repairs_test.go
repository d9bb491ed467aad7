package control_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/control/sourcetest"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// The repair controller on what a cluster has: who goes, who stays, and that it is
// said.
func TestRepair(t *testing.T) {
	anchor, _, cert, key := authority(t)
	var (
		mu   sync.Mutex
		gone []string
		once sync.Once
	)
	c := startCluster(t, anchors(anchor), issuer(cert, key), agent("n1"),
		bare("goes", "10.1.0.2"),
		// Each of these would be lost, or come back as it is.
		sourcetest.Pod("nobodys", "10.1.0.3", sourcetest.Unmeshed),
		sourcetest.Pod("without-agent", "10.1.0.4", sourcetest.Unmeshed, owned, func(p *corev1.Pod) { p.Spec.NodeName = "n2" }),
		sourcetest.Pod("shares", "10.1.0.5", sourcetest.Unmeshed, owned, func(p *corev1.Pod) { p.Spec.ShareProcessNamespace = isTrue() }),
		// The webhook leaves its namespace out.
		leftOut(), sourcetest.Pod("system", "10.1.0.7", sourcetest.Unmeshed, owned, func(p *corev1.Pod) { p.Namespace = "kube-system" }),
		// Its sidecar cannot start.
		sourcetest.Pod("outside", "10.1.0.6", owned, func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodPending
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{
				Name:                 annotation.SidecarContainer,
				State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: annotation.ExitOutside}},
			}}
		}),
	)
	evict := func(name string) error {
		err := error(nil)
		if name == "outside" {
			once.Do(func() { err = apierrors.NewTooManyRequests("a budget", 0) })
		}
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			gone = append(gone, name)
		}
		return err
	}
	c.evict.Store(&evict)
	c.eventually("both go", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(gone) >= 2
	})
	c.eventually("it is counted", func() bool {
		text := c.scrape()
		return strings.Contains(text, `repair_evictions_total{outcome="evicted"} 2`) && strings.Contains(text, `repair_evictions_total{outcome="refused"} 1`) &&
			strings.Contains(text, `repair_evictions_total{outcome="hopeless"} 1`)
	})
	c.eventually("it is said", func() bool {
		list, err := c.client.CoreV1().Events("default").List(context.Background(), metav1.ListOptions{})
		said := map[string]bool{}
		for _, e := range list.Items {
			said[e.InvolvedObject.Name+" "+e.Reason] = true
		}
		return err == nil && said["goes MadeAgain"] && said["outside MadeAgain"] && said["outside OutsideTheChain"] && said["shares Unmeshed"]
	})
	time.Sleep(2 * time.Second) // two more could go
	mu.Lock()
	defer mu.Unlock()
	if slices.Sort(gone); !slices.Equal(gone, []string{"goes", "outside"}) {
		t.Errorf("evicted %q", gone)
	}
	events, err := c.client.CoreV1().Events("kube-system").List(context.Background(), metav1.ListOptions{})
	if err != nil || len(events.Items) != 1 || events.Items[0].Reason != "Unmeshed" || !strings.Contains(events.Items[0].Message, "leaves out") {
		t.Errorf("of the pod whose namespace is left out: %v, %v", events.Items, err)
	}
	lease, err := c.client.CoordinationV1().Leases("tunmesh").Get(context.Background(), "tunmesh-repair", metav1.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		t.Errorf("%v %v", lease, err)
	}
}

// leftOut is a namespace that asks for the mesh, and that the webhook leaves out.
func leftOut() *corev1.Namespace {
	n := sourcetest.Namespace("kube-system", annotation.Inject, "enabled")
	n.Labels = map[string]string{corev1.LabelMetadataName: n.Name}
	return n
}

// owned pods are of a ReplicaSet.
func owned(p *corev1.Pod) { p.OwnerReferences = bare("x", "10.1.0.1").OwnerReferences }
