package tap

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"

	api "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control/catalog"
)

// crowd is a hub with pods whose sidecars are attached.
func crowd(t *testing.T, pods int) (*Hub, []*proxy) {
	t.Helper()
	c, err := catalog.New(catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	h := New(c, slog.New(slog.DiscardHandler))
	var list []*proxy
	for i := range pods {
		p := &proxy{
			pod:   &catalog.Pod{Key: catalog.Key{Namespace: "a", Name: fmt.Sprint(i)}, Meshed: true},
			nudge: make(chan struct{}, 1), stop: func() {}, asks: make(chan *api.Ask, maxAsks),
		}
		h.attach(p)
		list = append(list, p)
	}
	return h, list
}

func of(p *proxy) func() []*catalog.Pod {
	return func() []*catalog.Pod { return []*catalog.Pod{p.pod} }
}

// TestSlowWatchersShare: what waits for all watches together is bounded, whoever is
// slow loses and is told, each of them gets something, and what a watch held is
// free when it leaves.
func TestSlowWatchersShare(t *testing.T) {
	h, proxies := crowd(t, maxWatches/maxOfPod)
	var watches []*Watch
	for i := range maxWatches {
		w, err := h.Watch(Request{Pods: of(proxies[i%len(proxies)]), MaxRPS: maxRPS})
		if err != nil {
			t.Fatalf("watch %d: %v", i, err)
		}
		watches = append(watches, w)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const events, size = 200, 8 << 10 // for each of them: 400 MB in all
	for n := range uint64(events) {
		for i, w := range watches {
			h.deliver(proxies[i%len(proxies)], &api.Event{Tap: w.id, Stream: n, Phase: &api.Event_Request{Request: &api.Request{Path: strings.Repeat("x", size)}}})
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if held := h.held.Load(); held > maxHeld || held < maxHeld/2 {
		t.Errorf("%d bytes wait, of %d at most", held, maxHeld)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 2*maxHeld {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	for i, w := range watches {
		got, lost := uint64(len(w.events)), w.TakeLost()
		if got == 0 || lost == 0 || got+lost != events {
			t.Errorf("watch %d: %d wait and %d are lost, of %d", i, got, lost, events)
		}
	}
	w := watches[0]
	n := len(w.events)
	for range n {
		w.Took(<-w.Events())
	}
	if w.held != 0 {
		t.Errorf("a watch that has taken all holds %d bytes", w.held)
	}
	h.deliver(proxies[0], &api.Event{Tap: w.id, Stream: events, Phase: &api.Event_Request{Request: &api.Request{}}})
	if len(w.events) != 1 {
		t.Error("who reads gets nothing because others do not")
	}
	for _, w := range watches {
		w.Close()
		w.Close()
	}
	if held := h.held.Load(); held != 0 {
		t.Errorf("%d bytes are held for nobody", held)
	}
}

// TestAPodServesSoMany: more taps and captures than a sidecar takes are refused in
// words, since the sidecar could tell nobody.
func TestAPodServesSoMany(t *testing.T) {
	h, proxies := crowd(t, 2)
	var last *Watch
	for what, c := range map[string]struct {
		req  Request
		most int
	}{
		"taps":     {Request{}, maxOfPod},
		"captures": {Request{Capture: &api.Capture{}}, maxCapturesOfPod},
	} {
		for i := range c.most {
			c.req.Pods = of(proxies[0])
			w, err := h.Watch(c.req)
			if err != nil {
				t.Fatalf("%s: %d: %v", what, i, err)
			}
			last = w
		}
		if _, err := h.Watch(c.req); !errors.Is(err, ErrBusy) {
			t.Errorf("%s: one too many: %v", what, err)
		}
		c.req.Pods = of(proxies[1])
		if w, err := h.Watch(c.req); err != nil {
			t.Errorf("%s of another pod: %v", what, err)
		} else {
			w.Close()
		}
		last.Close()
		c.req.Pods = of(proxies[0])
		if _, err := h.Watch(c.req); err != nil {
			t.Errorf("%s, after one has ended: %v", what, err)
		}
	}
}
