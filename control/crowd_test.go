package control_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tunmesh/tunmesh/control/kube"
	"github.com/tunmesh/tunmesh/control/sourcetest"
)

// TestThousandPodsAtOnce: of a thousand pods that are made at once, the API server
// asks about all and each sidecar asks for its certificate, half of them before the
// control plane has been told of their pods. Each pod is injected; those whom there
// is no place for are told to try again and nothing else, and get theirs soon.
func TestThousandPodsAtOnce(t *testing.T) {
	const (
		crowd, known = 1000, 500
		// atOnce is how many questions an API server has under way, and conns how many
		// connections the sidecars share: what they cost is not what is looked at.
		atOnce, conns = 200, 20
	)
	anchor, _, cert, key := authority(t)
	objects := []runtime.Object{anchors(anchor), issuer(cert, key)}
	pod := func(i int) *corev1.Pod {
		return sourcetest.Pod(fmt.Sprintf("crowd-%d", i), fmt.Sprintf("10.2.%d.%d", i/250, 1+i%250))
	}
	for i := range known {
		objects = append(objects, pod(i))
	}
	var lookups atomic.Int32
	c := startThrough(t, func(client *fake.Clientset) kube.Client { // before anything asks: the client's reactors have no lock
		client.PrependReactor("get", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
			var i int
			if _, err := fmt.Sscanf(a.(clienttesting.GetAction).GetName(), "crowd-%d", &i); err != nil {
				return false, nil, nil
			}
			lookups.Add(1)
			return true, pod(i), nil
		})
		return client
	}, objects...)
	bundle := c.believed()
	over := make([]*grpc.ClientConn, conns)
	for i := range over {
		over[i] = c.dial(poolOf(t, anchor))
		defer over[i].Close()
	}
	places := make(chan struct{}, atOnce)
	client := c.webhookClient(bundle)
	client.Transport.(*http.Transport).ForceAttemptHTTP2 = true // as the API server, which keeps its connection
	if _, err := askOver(client, "default", `{"metadata":{"name":"first"},"spec":{"containers":[{"name":"app"}]}}`); err != nil {
		t.Fatal(err)
	}

	var wg sync.WaitGroup
	begin := make(chan struct{})
	var injected, late, certified, again atomic.Int32
	var longest atomic.Int64
	for i := range crowd {
		wg.Go(func() {
			<-begin
			places <- struct{}{}
			defer func() { <-places }()
			start := time.Now()
			for end := start.Add(4 * time.Minute); ; {
				resp, err := askOver(client, "default", fmt.Sprintf(`{"metadata":{"name":"crowd-%d"},"spec":{"containers":[{"name":"app"}]}}`, i))
				if err == nil && strings.Contains(string(resp.Patch), `"mesh-proxy"`) {
					injected.Add(1)
					break
				}
				if err == nil || time.Now().After(end) { // a busy machine may be too late with an answer, and never has another one
					t.Errorf("crowd-%d: %v, %v", i, resp, err)
					break
				}
				late.Add(1)
			}
			for took := int64(time.Since(start)); ; {
				if old := longest.Load(); took <= old || longest.CompareAndSwap(old, took) {
					break
				}
			}
		})
		wg.Go(func() {
			<-begin
			subject := fmt.Sprintf("crowd-%d uid-crowd-%d", i, i)
			for end, pause := time.Now().Add(4*time.Minute), 100*time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
				_, err := c.certifyOver(over[i%conns], subject, ouraud, ownID)
				code := status.Code(err)
				switch {
				case err == nil:
					certified.Add(1)
					return
				case code != codes.Unavailable && code != codes.DeadlineExceeded || time.Now().After(end): // the latter is of a busy machine
					t.Errorf("crowd-%d: %v", i, err)
					return
				}
				again.Add(1)
				time.Sleep(pause/2 + rand.N(pause)) // as sidecars do
			}
		})
	}
	start := time.Now()
	close(begin)
	wg.Wait()
	t.Logf("%d injected (the longest answer took %v, %d came too late), %d certified within %v, told to try again %d times, %d looked up",
		injected.Load(), time.Duration(longest.Load()).Round(time.Millisecond), late.Load(), certified.Load(), time.Since(start).Round(time.Millisecond), again.Load(), lookups.Load())
	if injected.Load() != crowd || certified.Load() != crowd {
		t.Errorf("%d injected and %d certified, of %d", injected.Load(), certified.Load(), crowd)
	}
	if n := lookups.Load(); n < crowd-known {
		t.Errorf("%d looked up, of %d that nobody had told of", n, crowd-known)
	}
}
