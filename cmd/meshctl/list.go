package main

import (
	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

func (a *app) listCommand() *cobra.Command {
	var (
		output, labels string
		all            bool
	)
	c := &cobra.Command{
		Use:   "list",
		Short: "List meshed pods, and whether they can be tapped",
		Long: `Lists the pods with a sidecar: those that can be tapped, those whose annotation
config.tunmesh.io/disable-tap forbids it, and those whose sidecar is not connected
to the control plane now. Nobody needs to be restarted for a tap.`,
		Example: `  meshctl list -n emojivoto
  meshctl list -A -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return usage("--output %q: want table or json", output)
			}
			at, err := a.asked(cmd)
			if err != nil {
				return err
			}
			sel, err := parseResources([]string{"po"}, at.namespace, all, labels)
			if err != nil {
				return err
			}
			ctx, q, done, err := at.once(cmd)
			if err != nil {
				return err
			}
			defer done()
			resp, err := q.Taps(ctx, &query.TapsRequest{Resource: sel[0]})
			if err != nil {
				return apiError(err)
			}
			if output == "json" {
				return render.TapsJSON(a.out, resp.GetRows())
			}
			return render.Taps(a.out, resp.GetRows())
		},
	}
	c.Flags().BoolVarP(&all, "all-namespaces", "A", false, "pods of all namespaces")
	c.Flags().StringVarP(&labels, "selector", "l", "", "label selector, as kubectl's")
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}
