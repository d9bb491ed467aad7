package kubelet

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// view is what plan knows of a pod.
type view struct {
	name     string
	hash     string
	ready    bool
	deleting bool
	created  time.Time
}

// decision names pods to make ("" = a made-up name) and to end.
type decision struct {
	create, remove []string
}

// plan decides the next step from the pods of a workload to what it wants. It
// is called again after every change, so it only ever takes steps that are
// right by themselves.
func plan(w workload, pods []view) decision {
	slices.SortFunc(pods, func(a, b view) int { return strings.Compare(a.name, b.name) })
	switch {
	case w.template.Kind == "StatefulSet":
		return planOrdered(w, pods)
	case w.oneByOne:
		return planRecreate(w, pods)
	}
	return planRolling(w, pods)
}

// split sorts the pods that stay into those of the present template and others,
// worst first: not ready, then youngest.
func split(w workload, pods []view) (current, old []view, leaving int) {
	for _, p := range pods {
		switch {
		case p.deleting:
			leaving++
		case p.hash == w.hash:
			current = append(current, p)
		default:
			old = append(old, p)
		}
	}
	worst := func(a, b view) int {
		if a.ready != b.ready {
			if b.ready {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.created.UnixNano(), a.created.UnixNano())
	}
	slices.SortStableFunc(current, worst)
	slices.SortStableFunc(old, worst)
	return current, old, leaving
}

// planRolling keeps at least replicas-unavailable ready pods and at most
// replicas+surge in all.
func planRolling(w workload, pods []view) decision {
	current, old, _ := split(w, pods)
	var d decision
	for len(current) > w.replicas {
		d.remove = append(d.remove, current[0].name)
		current = current[1:]
	}
	total := len(current) + len(old)
	for n := len(current); n < w.replicas && total < w.replicas+w.surge; n++ {
		d.create = append(d.create, "")
		total++
	}
	ready := 0
	for _, p := range append(current, old...) {
		if p.ready {
			ready++
		}
	}
	for _, p := range old {
		if p.ready {
			if ready-1 < w.replicas-w.unavailable {
				break // the others are ready too
			}
			ready--
		}
		d.remove = append(d.remove, p.name)
	}
	return d
}

// planRecreate ends what is old, and makes new ones when it is gone.
func planRecreate(w workload, pods []view) decision {
	current, old, leaving := split(w, pods)
	var d decision
	for _, p := range old {
		d.remove = append(d.remove, p.name)
	}
	for len(current) > w.replicas {
		d.remove = append(d.remove, current[0].name)
		current = current[1:]
	}
	if len(old)+leaving > 0 {
		return d
	}
	for n := len(current); n < w.replicas; n++ {
		name := ""
		if w.template.Kind == "Pod" {
			name = w.name
		}
		d.create = append(d.create, name)
	}
	return d
}

// planOrdered keeps name-0 to name-(replicas-1): made in order, each when the
// one before is ready; replaced from the last to the first, each when all
// others are ready.
func planOrdered(w workload, pods []view) decision {
	byName := map[string]view{}
	for _, p := range pods {
		byName[p.name] = p
	}
	var d decision
	healthy := true
	for i := range w.replicas {
		name := fmt.Sprintf("%s-%d", w.name, i)
		p, ok := byName[name]
		delete(byName, name)
		switch {
		case !ok:
			d.create = append(d.create, name)
			healthy = false
		case p.deleting || !p.ready:
			healthy = false
		}
		if !healthy && !w.parallel {
			break
		}
	}
	for _, p := range pods { // beyond the last
		if _, left := byName[p.name]; left && !p.deleting && ordinal(w, p.name) >= w.replicas {
			d.remove = append(d.remove, p.name)
		}
	}
	// An old pod that is not ready may never become it: it is replaced first.
	for i := w.replicas - 1; i >= 0 && len(d.create) == 0; i-- {
		at := slices.IndexFunc(pods, func(p view) bool { return p.name == fmt.Sprintf("%s-%d", w.name, i) })
		if at < 0 || pods[at].deleting || pods[at].hash == w.hash {
			continue
		}
		if healthy || !pods[at].ready {
			d.remove = append(d.remove, pods[at].name)
			break
		}
	}
	return d
}

func ordinal(w workload, name string) int {
	var n int
	if _, err := fmt.Sscanf(strings.TrimPrefix(name, w.name+"-"), "%d", &n); err != nil {
		return -1
	}
	return n
}
