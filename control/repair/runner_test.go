package repair

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A hundred pods that came through while the injector was away are evicted one a
// second, each once, and the time that an eviction takes is not caught up.
func TestRunner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var left []Pod
		for n := range 100 {
			left = append(left, pod(fmt.Sprintf("p%02d", n), deployment("web")))
		}
		begin := time.Now()
		var at []time.Duration
		r, err := NewRunner(Config{
			Look: func() Cluster { return cluster(left...) },
			Evict: func(_ context.Context, p Pod) Outcome {
				at = append(at, time.Since(begin))
				if len(at) == 10 {
					time.Sleep(5 * time.Second) // a slow API server
				}
				left = slices.DeleteFunc(left, func(o Pod) bool { return o.UID == p.UID })
				return Evicted
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); r.Run(ctx) }()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		stop()
		<-ended
		if len(at) != 100 || len(left) != 0 || r.Count(Evicted) != 100 || r.Count(Refused) != 0 {
			t.Fatalf("%d evictions, %d pods left, %d counted", len(at), len(left), r.Count(Evicted))
		}
		if at[0] < grace || at[0] > grace+2*Period {
			t.Errorf("the first after %v", at[0])
		}
		for i := 1; i < len(at); i++ {
			if at[i]-at[i-1] < Period {
				t.Errorf("two within %v", at[i]-at[i-1])
			}
		}
		if last := at[99]; last > grace+110*Period {
			t.Errorf("the last after %v", last)
		}
	})
}

// One that has stopped leading evicts no more, and begins anew when it leads again.
func TestRunnerStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []time.Duration
		begin := time.Now()
		r, err := NewRunner(Config{
			Look: func() Cluster { return cluster(pod("a", deployment("web"))) },
			Evict: func(ctx context.Context, _ Pod) Outcome {
				asked = append(asked, time.Since(begin))
				return Refused
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			ctx, stop := context.WithTimeout(t.Context(), 15*time.Second)
			r.Run(ctx)
			stop()
		}
		if len(asked) != 2 || asked[1] < 25*time.Second || r.Count(Refused) != 2 {
			t.Errorf("asked %v, counted %d", asked, r.Count(Refused))
		}
	})
	if _, err := NewRunner(Config{}); err == nil {
		t.Error("made without anything")
	}
	for o := Evicted; o <= Failed; o++ {
		if o.String() == "" {
			t.Errorf("outcome %d has no name", o)
		}
	}
}
