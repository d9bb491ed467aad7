package main

import (
	"context"
	"time"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/health"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
	"github.com/tunmesh/tunmesh/internal/version"
)

const (
	// checkAgain is the time between two runs of checks of which one waits.
	checkAgain = time.Second
	// checkWithin bounds one run.
	checkWithin = 2 * time.Minute
)

// clusterChecks are those of a cluster, again while what fails may come right by
// itself and there is time.
func (a *app) clusterChecks(ctx context.Context, f checkFlags) ([]render.CheckCategory, error) {
	c, err := a.cluster()
	if err != nil {
		return nil, err
	}
	cfg := health.Config{Kube: c.kube, Get: c.get, Mesh: a.meshHealth, Pre: f.pre, Proxy: f.proxy, Namespace: *a.kube.Namespace, Version: version.String(), Now: time.Now}
	deadline := time.Now().Add(f.wait)
	p := a.progress()
	defer p.done()
	for {
		once, cancel := context.WithTimeout(ctx, checkWithin)
		found := health.Run(once, cfg)
		cancel()
		if found.Waiting == "" || !time.Now().Before(deadline) || ctx.Err() != nil {
			return found.Categories, nil
		}
		p.say("waiting: " + found.Waiting)
		select {
		case <-time.After(checkAgain):
		case <-ctx.Done():
		}
	}
}

// meshHealth asks the mesh in the cluster how it is.
func (a *app) meshHealth(ctx context.Context) (*query.HealthResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	q, done, err := a.view()
	if err != nil {
		return nil, err
	}
	defer done()
	return q.Health(ctx, &query.HealthRequest{})
}
