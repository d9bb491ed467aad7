package tap

import (
	"log/slog"
	"testing"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// Pods that are not meshed, or forbid it, are not tapped.
func TestWhoIsTapped(t *testing.T) {
	c, err := catalog.New(catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	pod := func(name string, meshed bool, disable string) *catalog.Pod {
		return &catalog.Pod{Key: catalog.Key{Namespace: "a", Name: name}, Meshed: meshed, Annotations: map[string]string{annotation.DisableTap: disable}}
	}
	w, err := New(c, slog.New(slog.DiscardHandler)).Watch(Request{Pods: func() []*catalog.Pod {
		return []*catalog.Pod{pod("plain", false, ""), pod("no", true, "true"), pod("yes", true, "false"), pod("silent", true, "")}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if n, _ := w.Selected(); n != 2 || !w.selected[catalog.Key{Namespace: "a", Name: "yes"}] || !w.selected[catalog.Key{Namespace: "a", Name: "silent"}] {
		t.Errorf("%v", w.selected)
	}
}
