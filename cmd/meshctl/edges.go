package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

func (a *app) edgesCommand() *cobra.Command {
	var (
		output, labels string
		all            bool
		window         time.Duration
	)
	c := &cobra.Command{
		Use:   "edges TYPE[/NAME]",
		Short: "Show who talks to whom, and as whom",
		Long: `Shows pairs of workloads, pods or namespaces between which there were connections
or requests in the last window, whichever of the two is of TYPE. SECURED is √
where both proved their identities (mTLS), else the reason why not. An end of
another kind than TYPE is shown as KIND/NAME.`,
		Example: `  meshctl edges deploy -n emojivoto
  meshctl edges po -A -o wide`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: completeKinds(everyKind, "authority", "service"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "table" && output != "wide" && output != "json" {
				return usage("--output %q: want table, wide or json", output)
			}
			if err := checkWindow(window); err != nil {
				return err
			}
			at, err := a.asked(cmd)
			if err != nil {
				return err
			}
			sel, err := parseResources(args, at.namespace, all, labels)
			if err != nil {
				return err
			}
			if k := sel[0].GetKind(); k == "service" || k == "authority" {
				return usage("a %s is no end of a connection: ask for the workloads or pods behind it", k)
			}
			ctx, q, done, err := at.once(cmd)
			if err != nil {
				return err
			}
			defer done()
			resp, err := q.Edges(ctx, &query.EdgesRequest{Resource: sel[0], WindowSeconds: uint32(window / time.Second)})
			if err != nil {
				return apiError(err)
			}
			if output == "json" {
				return render.EdgesJSON(a.out, resp.GetEdges())
			}
			return render.Edges(a.told(len(resp.GetEdges())), resp.GetEdges(), sel[0].GetKind(), output == "wide")
		},
	}
	fl := c.Flags()
	fl.BoolVarP(&all, "all-namespaces", "A", false, "resources of all namespaces")
	fl.StringVarP(&labels, "selector", "l", "", "label selector, as kubectl's")
	fl.DurationVarP(&window, "time-window", "t", time.Minute, "how far back to look, at most what the mesh keeps")
	fl.StringVarP(&output, "output", "o", "table", "table, wide or json")
	return c
}
