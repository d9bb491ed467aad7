//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/ctl"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/holder"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/state"
)

func (a *app) localDownCommand() *cobra.Command {
	var (
		all   bool
		grace time.Duration
	)
	c := &cobra.Command{
		Use:   "down",
		Short: "End a mesh, and clean up after one that was killed",
		Example: `  sudo meshctl local down
  sudo meshctl local down --all`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.needRoot(); err != nil {
				return err
			}
			if grace < 0 {
				return usage("--grace-period must not be below 0")
			}
			dir, err := a.mesh()
			if err != nil {
				return err
			}
			dirs := []state.Dir{dir}
			if all {
				if dirs, err = state.List(); err != nil {
					return err
				}
			}
			var errs []error
			for _, d := range dirs {
				errs = append(errs, a.down(cmd.Context(), d, grace))
			}
			return errors.Join(append(errs, state.RemoveRoot())...)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "end all meshes of this machine")
	c.Flags().DurationVar(&grace, "grace-period", 5*time.Second, "no pod is given longer than this to end")
	return c
}

// answerTime is what a holder may need beyond its pods' grace.
const answerTime = 10 * time.Second

// down ends one mesh: in good order, or, when that fails, by killing the holder.
func (a *app) down(ctx context.Context, d state.Dir, grace time.Duration) error {
	p := a.progress()
	defer p.done()
	if d.Held() {
		h, err := holder.Find(d)
		if err != nil {
			return err
		}
		defer h.Close()
		p.say("ending the pods of " + d.Name())
		asking, cancel := context.WithTimeout(ctx, grace+answerTime)
		defer cancel()
		if err = (ctl.Client{Dir: d}).Down(asking, ctl.Down{Grace: grace}); err == nil {
			err = h.Await(asking)
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			fmt.Fprintf(a.err, "warning: the mesh %q does not end by itself (%v) and is killed\n", d.Name(), err)
			if err := errors.Join(h.Kill(), h.Await(ctx)); err != nil {
				return err
			}
		}
	}
	return d.Remove()
}
