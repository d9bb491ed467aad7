package repair

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"
)

// Config says how a Runner sees a cluster and acts on it; all but Logger is
// required.
type Config struct {
	// Look tells how the cluster is.
	Look func() Cluster
	// Evict evicts a pod if it still is what it was.
	Evict  func(ctx context.Context, p Pod) Outcome
	Logger *slog.Logger // nil = discard
}

// Runner evicts one pod after another. At most one runs in a cluster.
type Runner struct {
	cfg    Config
	counts [Failed + 1]atomic.Uint64
}

// NewRunner returns one.
func NewRunner(cfg Config) (*Runner, error) {
	if cfg.Look == nil || cfg.Evict == nil {
		return nil, errors.New("new repair: Look and Evict are needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Runner{cfg: cfg}, nil
}

// Count is how often there was an outcome.
func (r *Runner) Count(o Outcome) uint64 { return r.counts[o].Load() }

// Run evicts until ctx ends. It may be called again, and then begins anew.
func (r *Runner) Run(ctx context.Context) {
	var plan Planner
	tick := time.NewTicker(Period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		pod, ok := plan.Next(time.Now(), r.cfg.Look())
		if !ok {
			continue
		}
		what := r.cfg.Evict(ctx, pod)
		if ctx.Err() != nil {
			return
		}
		plan.Tell(time.Now(), pod, what)
		r.counts[what].Add(1)
		r.cfg.Logger.Info("pod is to be made again", "pod", pod.String(), "owner", pod.Owner.Kind+" "+pod.Owner.Name, "outcome", what.String())
	}
}
