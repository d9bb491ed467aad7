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
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot("meshctl local down"); err != nil {
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

// down ends one mesh: in good order, or, when that fails, by killing the holder.
func (a *app) down(ctx context.Context, d state.Dir, grace time.Duration) error {
	p := a.progress()
	defer p.done()
	if d.Held() {
		p.say("ending the pods of " + d.Name())
		asking, cancel := context.WithTimeout(ctx, grace+20*time.Second)
		err := ctl.Client{Dir: d}.Down(asking, ctl.Down{Grace: grace})
		cancel()
		if err == nil {
			err = awaitFree(ctx, d)
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			fmt.Fprintf(a.err, "warning: the mesh %q does not end by itself (%v) and is killed\n", d.Name(), err)
			if err := holder.KillHeld(ctx, d); err != nil {
				return err
			}
		}
	}
	return d.Remove()
}

// awaitFree waits until the holder's process has ended.
func awaitFree(ctx context.Context, d state.Dir) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for d.Held() {
		select {
		case <-ctx.Done():
			return errors.New("its holder still runs")
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}
