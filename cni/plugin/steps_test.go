package plugin_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/internal/nettest"
)

var errInjected = errors.New("made to fail")

// Every step of ADD fails once, before it was done and after, and the pod's and
// the node's namespaces are found exactly as they were.
func TestEveryStepOfAddFailsOnce(t *testing.T) {
	nettest.NeedRoot(t)
	for _, main := range []string{"bridge", "ptp"} {
		for name, subnets := range map[string][]string{"ipv4": {subnet4}, "ipv6": {subnet6}, "dual": {subnet4, subnet6}} {
			t.Run(fmt.Sprint(main, " ", name), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				p := nettest.New(t, "pod")
				c, end := w.before(w.conflist(main, "1.1.0", subnets...), w.runtime(p, "pod", injected()))
				if !p.Settled("eth0", within) {
					t.Fatal("the pod's addresses do not settle")
				}
				w.settle()
				pod, node := p.Picture(), w.Picture()
				unchanged := func(what string) {
					t.Helper()
					if d := nettest.Changes(pod, p.Picture()); d != "" {
						t.Errorf("%s: the pod's namespace is changed:\n%s", what, d)
					}
					if d := nettest.Changes(node, w.Picture()); d != "" {
						t.Errorf("%s: the node's namespace is changed:\n%s", what, d)
					}
					if left := w.leftovers(); len(left) != 0 {
						t.Errorf("%s: left: %q", what, left)
					}
				}

				var steps []string
				agent := newFakeAgent()
				all, _ := ours(agent, func(s string) error { steps = append(steps, s); return nil })
				if err := all.Add(t.Context(), c.skel(t)); err != nil {
					t.Fatal(err)
				}
				if len(agent.attached) != 1 {
					t.Fatal("the agent was not asked")
				}
				if err := all.Del(t.Context(), c.skel(t)); err != nil {
					t.Fatal(err)
				}
				unchanged("ADD and DEL")
				if len(steps) != 22 || slices.Contains(steps, "") {
					t.Fatalf("steps: %q", steps)
				}
				for _, step := range steps {
					one, out := ours(agent, func(s string) error {
						if s == step {
							return errInjected
						}
						return nil
					})
					err := one.Add(t.Context(), c.skel(t))
					if err == nil || !strings.Contains(err.Error(), errInjected.Error()) {
						t.Fatalf("%s: %v", step, err)
					}
					if step != "after print the result" && out.Len() != 0 {
						t.Errorf("%s: a failed ADD prints %s", step, out)
					}
					if len(agent.attached) != 0 {
						t.Errorf("%s: the agent still has the pod", step)
					}
					unchanged(step)
				}
				end()
			})
		}
	}
}

// settle waits for the node's own link-local addresses.
func (w *world) settle() {
	w.t.Helper()
	for _, line := range w.Picture() {
		name, ok := strings.CutPrefix(line, "link ")
		if !ok {
			continue
		}
		name, _, _ = strings.Cut(name, " ")
		if (strings.HasPrefix(name, "veth") || name == "br0") && !w.Settled(name, within) {
			w.t.Fatalf("the addresses of %s do not settle", name)
		}
	}
}
