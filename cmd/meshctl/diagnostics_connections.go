package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

func (a *app) connectionsCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:     "connections po/NAME",
		Aliases: []string{"conns"},
		Short:   "Show the connections that a pod's sidecar has with peers",
		Long: `Asks the sidecar of a pod what connections it has with others outside of the pod at
this moment, the oldest first: how old each is, its round-trip time, what was sent
again, and how many bytes it has carried. Nothing is kept for it before somebody asks.`,
		Example: `  meshctl diagnostics connections po/web-5d8c9 -n emojivoto
  meshctl diagnostics connections po/web-5d8c9 -n emojivoto -o json | jq '.connections[] | select(.retransmits > 0)'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "table" && output != "json" {
				return usage("--output %q: want table or json", output)
			}
			at, err := a.asked(cmd)
			if err != nil {
				return err
			}
			sels, err := parseResources(args, at.namespace, false, "")
			if err != nil {
				return err
			}
			if len(sels) != 1 || sels[0].GetKind() != "pod" || sels[0].GetName() == "" {
				return usage("%q: name one pod, as po/NAME", args[0])
			}
			ctx, q, done, err := at.once(cmd)
			if err != nil {
				return err
			}
			defer done()
			resp, err := q.Connections(ctx, &query.ConnectionsRequest{Namespace: sels[0].GetNamespace(), Pod: sels[0].GetName()})
			if err != nil {
				return apiError(err)
			}
			if output == "json" {
				return render.ConnectionsJSON(a.out, resp)
			}
			if err := render.Connections(a.told(len(resp.GetRows())), resp); err != nil {
				return err
			}
			if n := uint64(len(resp.GetRows())); resp.GetTotal() > n {
				_, err = fmt.Fprintf(a.err, "%d of %d connections are shown\n", n, resp.GetTotal())
			}
			return err
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}
