package control_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	queryapi "github.com/tunmesh/tunmesh/api/query"
	tapapi "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control/controltest"
)

// TestTenThousandSlowWatchers: of ten thousand taps some run and all others are
// refused in words. Nobody reads, the sidecars are not held up by it, and each watcher
// is told how much it has lost when it reads again. Once they leave, others get in.
func TestTenThousandSlowWatchers(t *testing.T) {
	const (
		crowd, conns, pods = 10_000, 40, 5
		events, size       = 24, 24 << 10 // for each: more than waits on the way and here
	)
	p := controltest.Start(t, nil, shop)
	all, leave := context.WithTimeout(t.Context(), 3*time.Minute)
	defer leave()
	stay, end := context.WithTimeout(t.Context(), 3*time.Minute)
	defer end()
	sidecars := make([]tapapi.Tap_AttachClient, pods)
	for i := range pods {
		pod := p.PutPod(inShop(fmt.Sprintf("web-%d", i), fmt.Sprintf("10.1.0.%d", i+1), "web"))
		p.Settle()
		s, err := tapapi.NewTapClient(p.As(stay, pod)).Attach(stay)
		if err == nil {
			err = s.Send(&tapapi.FromProxy{Message: &tapapi.FromProxy_Hello{Hello: &tapapi.Hello{Pod: pod.Namespace + "/" + pod.Name}}})
		}
		if err != nil {
			t.Fatal(err)
		}
		sidecars[i] = s
	}
	ask := make([]queryapi.QueryClient, conns)
	for i := range ask {
		ask[i] = queryapi.NewQueryClient(p.Ask())
	}
	tap := func(ctx context.Context, i int) (queryapi.Query_TapClient, error) {
		s, err := ask[i%conns].Tap(ctx, &queryapi.TapRequest{Resource: &queryapi.Selector{Kind: "pod", Namespace: "shop", Name: fmt.Sprintf("web-%d", i%pods)}, MaxRps: 1000})
		if err == nil {
			_, err = s.Recv() // that it runs
		}
		return s, err
	}
	var (
		mu      sync.Mutex
		runs    []queryapi.Query_TapClient
		of      [pods]int // how many of each pod
		refused atomic.Int32
		wg      sync.WaitGroup
		places  = make(chan struct{}, 100)
	)
	for i := range crowd {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			s, err := tap(all, i)
			switch {
			case err == nil:
				mu.Lock()
				defer mu.Unlock()
				runs = append(runs, s)
				of[i%pods]++
			case status.Code(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "too many taps at once"):
				refused.Add(1)
			default:
				t.Errorf("watcher %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if len(runs) < 200 || len(runs) > 300 || int(refused.Load())+len(runs) != crowd {
		t.Fatalf("%d taps run, %d are refused", len(runs), refused.Load())
	}
	// All that the sidecars see of it is that their events are taken.
	path := strings.Repeat("x", size)
	var taps [pods][]uint64
	for i, s := range sidecars {
		for range of[i] {
			c, err := s.Recv()
			if err != nil {
				t.Fatal(err)
			}
			taps[i] = append(taps[i], c.GetTap())
		}
	}
	for n := range uint64(events) {
		for i, s := range sidecars {
			for _, id := range taps[i] {
				m := request(id, n)
				m.GetEvent().GetRequest().Path = path
				if err := s.Send(m); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for i, s := range runs {
		wg.Go(func() {
			got, lost := uint64(0), uint64(0)
			for got+lost < events {
				m, err := s.Recv()
				if err != nil {
					t.Errorf("watcher %d, after %d events and %d lost: %v", i, got, lost, err)
					return
				}
				if lost += m.GetLost(); m.GetEvent() != nil {
					got++
				}
			}
			if got == 0 || lost == 0 {
				t.Errorf("watcher %d: %d events, %d lost", i, got, lost)
			}
		})
	}
	wg.Wait()
	leave()
	meanwhile, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		if _, err := tap(meanwhile, 0); err == nil {
			break
		} else if status.Code(err) != codes.ResourceExhausted {
			t.Fatalf("after all have left: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
