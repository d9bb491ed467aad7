package tap

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	api "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// TestConnectionsAreAskedFor: an answer is that of the sidecar that was asked, in
// all its parts; who forbids taps is not asked, and who is silent not waited for.
func TestConnectionsAreAskedFor(t *testing.T) {
	c, err := catalog.New(catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	h := New(c, slog.New(slog.DiscardHandler))
	attach := func(name, disable string) *proxy {
		p := &proxy{
			pod:   &catalog.Pod{Key: catalog.Key{Namespace: "a", Name: name}, Annotations: map[string]string{annotation.DisableTap: disable}},
			nudge: make(chan struct{}, 1), stop: func() {}, asks: make(chan *api.Ask, maxAsks),
		}
		h.attach(p)
		return p
	}
	web, other := attach("web", ""), attach("other", "")
	attach("no", "true")
	for name, want := range map[string]error{"absent": ErrAbsent, "no": ErrForbidden} {
		if _, _, err := h.Connections(t.Context(), catalog.Key{Namespace: "a", Name: name}, 0); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	go func() {
		q := <-web.asks
		one := []*api.Connection{{Remote: "10.0.0.9:1"}}
		h.answered(other, &api.Connections{Id: q.GetId(), Connections: []*api.Connection{{Remote: "forged"}}})
		h.answered(web, &api.Connections{Id: q.GetId() + 1, Connections: one})
		h.answered(web, &api.Connections{Id: q.GetId(), Connections: one, Total: 9, More: true})
		h.answered(web, &api.Connections{Id: q.GetId(), Connections: make([]*api.Connection, 2*maxConnections), Total: 9})
	}()
	got, total, err := h.Connections(t.Context(), web.pod.Key, 5)
	if err != nil || total != 9 || len(got) != maxConnections || got[0].GetRemote() != "10.0.0.9:1" {
		t.Errorf("%d of %d, %v", len(got), total, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, _, err := h.Connections(ctx, other.pod.Key, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent one: %v", err)
	}
	if len(h.asked) != 0 {
		t.Errorf("%d questions are kept", len(h.asked))
	}
}
