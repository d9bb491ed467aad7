// Package health checks a mesh in a Kubernetes cluster: what it needs of the
// cluster, and whether it is well. It owns the checks, their order and words; it
// only reads, and refuses to know flags and terminals.
package health

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

// Hints begins the place where each check that fails is explained.
const Hints = "https://github.com/tunmesh/tunmesh/blob/main/docs/checks.md#"

// soon is how early an expiry is worth a warning.
const soon = 60 * 24 * time.Hour

// Config says what to check.
type Config struct {
	Kube kubernetes.Interface
	// Get asks a pod for a path of a port.
	Get func(ctx context.Context, p *corev1.Pod, port, path string) ([]byte, error)
	// Mesh asks mesh-view how the mesh is.
	Mesh func(ctx context.Context) (*query.HealthResponse, error)
	// Pre checks a cluster before anything is installed in it.
	Pre bool
	// Proxy checks the sidecars, too; of Namespace, or all.
	Proxy     bool
	Namespace string
	// Version is meshctl's own.
	Version string
	Now     func() time.Time
}

// Result is what was found.
type Result struct {
	Categories []render.CheckCategory
	// Waiting is what may come right by itself, when nothing else fails; else "".
	Waiting string
}

// run is one run of the checks.
type run struct {
	Config
	out     []render.CheckCategory
	waiting string // the first thing that may come right
	broken  bool   // something will not
	ended   bool   // nothing can be checked any more
	seen    seen
}

// Run checks everything that the config names, until something fails without
// which the rest makes no sense.
func Run(ctx context.Context, cfg Config) Result {
	r := &run{Config: cfg}
	steps := []func(context.Context){r.api, r.nodes}
	if cfg.Pre {
		steps = append(steps, r.pre)
	} else {
		steps = append(steps, r.existence, r.objects, r.agents, r.identity, r.webhook, r.view, r.versions)
		if cfg.Proxy {
			steps = append(steps, r.proxies)
		}
	}
	for _, step := range steps {
		if r.ended {
			break
		}
		step(ctx)
	}
	if r.broken {
		r.waiting = ""
	}
	return Result{Categories: r.out, Waiting: r.waiting}
}

// kind says what a check that fails means.
type kind int

const (
	fails kind = iota // the mesh does not work
	waits             // likewise, and it may come right by itself
	warns             // it works, and somebody should know
	fatal             // nothing after it can be checked
)

// category begins a group of checks.
func (r *run) category(name string) { r.out = append(r.out, render.CheckCategory{Name: name}) }

// check runs f and notes what came of it; anchor is where it is explained.
func (r *run) check(k kind, description, anchor string, f func() error) {
	if r.ended {
		return
	}
	c := render.CheckResult{Description: description, Result: render.CheckSuccess}
	if err := f(); err != nil {
		c.Result, c.Error, c.Hint = render.CheckError, err.Error(), Hints+anchor
		switch k {
		case warns:
			c.Result = render.CheckWarning
		case waits:
			if r.waiting == "" {
				r.waiting = description + ": " + err.Error()
			}
		case fatal:
			r.ended, r.broken = true, true
		case fails:
			r.broken = true
		}
	}
	last := &r.out[len(r.out)-1]
	last.Checks = append(last.Checks, c)
}
