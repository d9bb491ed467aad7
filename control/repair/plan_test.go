package repair

import (
	"fmt"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/control/catalog"
)

func deployment(name string) catalog.Ref {
	return catalog.Ref{Kind: catalog.KindDeployment, Key: catalog.Key{Namespace: "a", Name: name}}
}

func pod(name string, of catalog.Ref) Pod {
	return Pod{Key: catalog.Key{Namespace: "a", Name: name}, UID: "uid-" + name, Owner: of, Node: "n1"}
}

func start() time.Time { return time.Unix(1_800_000_000, 0) }

func cluster(pods ...Pod) Cluster {
	return Cluster{Pods: pods, Agents: map[string]bool{"n1": true}, Injecting: true}
}

// Who is evicted once a pod has been there for long enough, and who never is.
func TestWho(t *testing.T) {
	web := deployment("web")
	job := catalog.Ref{Kind: "Job", Key: catalog.Key{Namespace: "a", Name: "once"}}
	node := catalog.Ref{Kind: catalog.KindNode, Key: catalog.Key{Name: "n1"}}
	elsewhere, stuck := pod("x", web), pod("x", job)
	elsewhere.Node, stuck.Stuck = "n2", true
	unscheduled := pod("x", web)
	unscheduled.Node = ""
	for name, c := range map[string]struct {
		pod    Pod
		change func(*Cluster)
		want   bool
	}{
		"a Deployment's":           {pod: pod("x", web), want: true},
		"nobody's":                 {pod: pod("x", catalog.Ref{})},
		"a kubelet's own":          {pod: pod("x", node)},
		"a Job's that runs":        {pod: pod("x", job)},
		"a Job's that never will":  {pod: stuck, want: true},
		"on a node without agent":  {pod: elsewhere},
		"on no node yet":           {pod: unscheduled},
		"its agent is not ready":   {pod: pod("x", web), change: func(c *Cluster) { c.Agents["n1"] = false }},
		"nobody injects":           {pod: pod("x", web), change: func(c *Cluster) { c.Injecting = false }},
		"its agent is ready again": {pod: elsewhere, change: func(c *Cluster) { c.Agents["n2"] = true }, want: true},
	} {
		var p Planner
		cl := cluster(c.pod)
		if c.change != nil {
			c.change(&cl)
		}
		if _, ok := p.Next(start(), cl); ok {
			t.Errorf("%s: evicted at once", name)
		}
		if _, ok := p.Next(start().Add(grace-1), cl); ok {
			t.Errorf("%s: evicted before %v", name, grace)
		}
		if _, ok := p.Next(start().Add(grace), cl); ok != c.want {
			t.Errorf("%s: evicted %v", name, ok)
		}
	}
}

// The one that has waited longest comes first, and one a second.
func TestOneASecond(t *testing.T) {
	var p Planner
	a, b, c := pod("a", deployment("web")), pod("b", deployment("web")), pod("c", deployment("api"))
	now := start()
	p.Next(now, cluster(c))
	now = now.Add(time.Second)
	p.Next(now, cluster(a, b, c))
	now = now.Add(grace)
	left := []Pod{a, b, c}
	for _, want := range []string{"c", "a", "b"} {
		got, ok := p.Next(now, cluster(left...))
		if !ok || got.Name != want {
			t.Fatalf("%v %v, want %s", got.Name, ok, want)
		}
		p.Tell(now, got, Evicted)
		for i := range left {
			if left[i].UID == got.UID {
				left = append(left[:i], left[i+1:]...)
				break
			}
		}
		if _, ok := p.Next(now.Add(Period-1), cluster(left...)); ok {
			t.Fatal("two in less than a second")
		}
		now = now.Add(Period)
	}
	if _, ok := p.Next(now, cluster()); ok {
		t.Error("evicts nobody's pod")
	}
}

// An owner whose pods come back the same rests longer each time, others do not.
func TestFutile(t *testing.T) {
	var p Planner
	web, api := deployment("web"), deployment("api")
	now, at := start(), start()
	var rests []time.Duration
	for n := range 10 {
		x := pod(fmt.Sprint("x", n), web)
		for {
			got, ok := p.Next(now, cluster(x))
			if ok {
				p.Tell(now, got, Evicted)
				break
			}
			now = now.Add(time.Second)
			if now.Sub(at) > time.Hour {
				t.Fatal("never again")
			}
		}
		rests = append(rests, now.Sub(at))
		at = now
		now = now.Add(Period)
	}
	for i, r := range rests[2:] {
		if last := rests[i+1]; r < last || r > maxRest+grace || last < maxRest && r < last*3/2 {
			t.Errorf("rests %v: want each about twice the one before, up to %v", rests, maxRest)
			break
		}
	}
	if rests[1] < firstRest {
		t.Errorf("rests %v", rests)
	}
	// Another owner's is not kept waiting.
	y := pod("y", api)
	p.Next(now, cluster(pod("x10", web), y))
	if got, ok := p.Next(now.Add(grace), cluster(pod("x10", web), y)); !ok || got.Name != "y" {
		t.Errorf("%v %v", got, ok)
	}
	// A quiet time is a fresh start.
	now = now.Add(forgetAfter + time.Minute)
	p.Next(now, cluster())
	p.Next(now, cluster(pod("z", web)))
	if _, ok := p.Next(now.Add(grace), cluster(pod("z", web))); !ok {
		t.Error("an owner is never forgiven")
	}
}

// A budget that lets nothing go is asked less and less often; when it does, the
// next pod of the same owner waits no longer than any other.
func TestRefused(t *testing.T) {
	for _, what := range []Outcome{Refused, Failed} {
		var p Planner
		a, b := pod("a", deployment("web")), pod("b", deployment("web"))
		now := start()
		p.Next(now, cluster(a, b))
		now = now.Add(grace)
		for n, rest := range []time.Duration{firstRest, 2 * firstRest, 4 * firstRest} {
			got, ok := p.Next(now, cluster(a, b))
			if !ok {
				t.Fatalf("%v: not asked for the %d. time", what, n+1)
			}
			p.Tell(now, got, what)
			if _, ok := p.Next(now.Add(rest-1), cluster(a, b)); ok {
				t.Fatalf("%v: asked again before %v", what, rest)
			}
			now = now.Add(rest)
		}
		got, ok := p.Next(now, cluster(a, b))
		if !ok {
			t.Fatal("not asked")
		}
		p.Tell(now, got, Evicted)
		if _, ok := p.Next(now.Add(Period), cluster(b)); !ok {
			t.Errorf("%v: the next waits", what)
		}
	}
}

// What cannot be mended is asked for once, until it is another pod.
func TestHopeless(t *testing.T) {
	var p Planner
	a, b := pod("a", deployment("web")), pod("b", deployment("api"))
	now := start()
	p.Next(now, cluster(a, b))
	now = now.Add(grace)
	got, _ := p.Next(now, cluster(a, b))
	p.Tell(now, got, Hopeless)
	now = now.Add(Period)
	if next, ok := p.Next(now, cluster(a, b)); !ok || next.UID == got.UID {
		t.Fatalf("%v %v", next, ok)
	}
	if _, ok := p.Next(now.Add(time.Hour), cluster(got)); ok {
		t.Error("asked for again")
	}
	again := got
	again.UID = "another"
	p.Next(now, cluster(again))
	if _, ok := p.Next(now.Add(grace), cluster(again)); !ok {
		t.Error("its successor is not tried")
	}
}

// What is remembered is bounded by what is there.
func TestForgets(t *testing.T) {
	var p Planner
	for n := range 1000 {
		p.Next(start().Add(time.Duration(n)*time.Minute), cluster(pod(fmt.Sprint(n), deployment(fmt.Sprint(n)))))
	}
	if len(p.pods) != 1 || len(p.owners) > 30 {
		t.Errorf("%d pods, %d owners", len(p.pods), len(p.owners))
	}
	p.Tell(start(), pod("who", deployment("who")), Refused) // nobody's
}
