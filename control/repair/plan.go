package repair

import (
	"cmp"
	"slices"
	"time"

	"github.com/tunmesh/tunmesh/control/catalog"
)

const (
	// Period is the least time between two evictions.
	Period = time.Second
	// grace is how long a pod is left alone first: time to read why, and for those
	// that are being deleted already.
	grace = 10 * time.Second
	// firstRest is how long an owner rests first; it doubles up to maxRest.
	firstRest = 10 * time.Second
	maxRest   = 10 * time.Minute
	// forgetAfter is after how long without such pods an owner's past is forgotten.
	forgetAfter = 2 * maxRest
)

// Pod is one that should be meshed and is not.
type Pod struct {
	catalog.Key
	UID   string
	Owner catalog.Ref // who makes it again; zero: nobody
	Node  string
	// Stuck: it does not run, and never will.
	Stuck bool
}

// Cluster is what matters of a cluster at a moment.
type Cluster struct {
	Pods []Pod
	// Agents are the nodes whose agent is ready.
	Agents map[string]bool
	// Injecting: a pod that is made now gets its sidecar.
	Injecting bool
}

// Outcome is what became of an eviction.
type Outcome int

// Outcomes.
const (
	// Evicted: the pod goes.
	Evicted Outcome = iota
	// Refused: a PodDisruptionBudget does not let it go now.
	Refused
	// Hopeless: it would come back as it is.
	Hopeless
	// Gone: it was gone or mended already.
	Gone
	// Failed: nobody could tell.
	Failed
)

// String is an outcome as metrics name it.
func (o Outcome) String() string {
	return [...]string{"evicted", "refused", "hopeless", "gone", "failed"}[o]
}

// Planner decides. Its zero value is ready; it is not for concurrent use.
type Planner struct {
	next   time.Time // no eviction before
	pods   map[string]*seen
	owners map[catalog.Ref]*owner
}

type seen struct {
	since    time.Time
	hopeless bool
}

type owner struct {
	evicted time.Time // when a pod of it was last; zero: none
	wrong   time.Time // when it last had such a pod
	refused int       // times in a row
	futile  int       // times that an eviction changed nothing
	rest    time.Time // until then
}

// Next is the pod that is to be evicted now, if one is.
func (p *Planner) Next(now time.Time, c Cluster) (Pod, bool) {
	p.learn(now, c.Pods)
	if now.Before(p.next) || !c.Injecting {
		return Pod{}, false
	}
	may := slices.DeleteFunc(slices.Clone(c.Pods), func(pod Pod) bool { return !p.may(now, pod, c) })
	if len(may) == 0 {
		return Pod{}, false
	}
	return slices.MinFunc(may, func(a, b Pod) int {
		return cmp.Or(p.pods[a.UID].since.Compare(p.pods[b.UID].since), a.Compare(b.Key))
	}), true
}

func (p *Planner) may(now time.Time, pod Pod, c Cluster) bool {
	s := p.pods[pod.UID]
	switch {
	case s.hopeless, now.Sub(s.since) < grace, !c.Agents[pod.Node]:
		return false
	case pod.Owner == (catalog.Ref{}), pod.Owner.Kind == catalog.KindNode: // a static pod is its kubelet's
		return false
	case pod.Owner.Kind == "Job" && !pod.Stuck:
		return false
	}
	return !now.Before(p.owners[pod.Owner].rest)
}

// learn remembers what is new and forgets what is gone.
func (p *Planner) learn(now time.Time, pods []Pod) {
	if p.pods == nil {
		p.pods, p.owners = map[string]*seen{}, map[catalog.Ref]*owner{}
	}
	there := make(map[string]bool, len(pods))
	for _, pod := range pods {
		there[pod.UID] = true
		o := p.owners[pod.Owner]
		if o == nil {
			o = &owner{}
			p.owners[pod.Owner] = o
		}
		o.wrong = now
		if p.pods[pod.UID] != nil {
			continue
		}
		p.pods[pod.UID] = &seen{since: now}
		if !o.evicted.IsZero() { // it came after one that was to be mended
			o.futile++
			o.rests(now, o.futile)
		}
	}
	for uid := range p.pods {
		if !there[uid] {
			delete(p.pods, uid)
		}
	}
	for ref, o := range p.owners {
		if now.Sub(o.wrong) > forgetAfter {
			delete(p.owners, ref)
		}
	}
}

// Tell says what became of a pod that Next has named.
func (p *Planner) Tell(now time.Time, pod Pod, what Outcome) {
	p.next = now.Add(Period)
	s, o := p.pods[pod.UID], p.owners[pod.Owner]
	if s == nil || o == nil {
		return
	}
	switch what {
	case Evicted:
		o.evicted, o.refused = now, 0
	case Refused, Failed:
		o.refused++
		o.rests(now, o.refused)
	case Hopeless:
		s.hopeless = true
	case Gone: // which the next look shows
	}
}

// rests makes an owner rest for the nth time.
func (o *owner) rests(now time.Time, n int) {
	until := now.Add(min(firstRest<<min(n-1, 10), maxRest))
	if until.After(o.rest) {
		o.rest = until
	}
}
