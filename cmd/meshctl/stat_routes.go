package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

func (a *app) statRoutesCommand(outbound bool) *cobra.Command {
	var (
		output, labels string
		all            bool
		window         time.Duration
	)
	c := &cobra.Command{
		Use:   "stat-inbound TYPE[/NAME]…",
		Short: "Show figures of what came in, by policy server and route",
		Long: `Shows success rate, requests per second and latency of requests that came to
pods, by the policy server of the port and the route that took them. [default]
is what there is where nobody made one. Probes of the kubelet are shown, too.`,
		Example: `  meshctl stat-inbound deploy -n emojivoto
  meshctl stat-inbound po/web-5d8c9 -n emojivoto -o json`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeKinds(everyKind, "authority", "service"),
	}
	if outbound {
		c.Use, c.Short = "stat-outbound TYPE[/NAME]…", "Show figures of what went out, by Service and route"
		c.Long = `Shows success rate, requests per second and latency of requests that pods made,
by the Service and route that they went to, and below, of what was sent to the
route's backends: with retries that is more, and less of it succeeds. TIMEOUTS
and RETRIES are shares of requests.`
		c.Example = `  meshctl stat-outbound deploy/web -n emojivoto
  meshctl stat-outbound po -n emojivoto -o json`
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if output != "table" && output != "json" {
			return usage("--output %q: want table or json", output)
		}
		if err := checkWindow(window); err != nil {
			return err
		}
		at, err := a.asked(cmd)
		if err != nil {
			return err
		}
		sels, err := parseResources(args, at.namespace, all, labels)
		if err != nil {
			return err
		}
		if k := sels[0].GetKind(); k == "service" || k == "authority" {
			return usage("a %s has no sidecar: ask for the workloads or pods behind it", k)
		}
		ctx, q, done, err := at.once(cmd)
		if err != nil {
			return err
		}
		defer done()
		var rows []*query.RouteRow
		for _, sel := range sels {
			resp, err := q.Routes(ctx, &query.RoutesRequest{Resource: sel, WindowSeconds: uint32(window / time.Second), Outbound: outbound})
			if err != nil {
				return apiError(err)
			}
			rows = append(rows, resp.GetRows()...)
		}
		if output == "json" {
			return render.RoutesJSON(a.out, rows, outbound)
		}
		return render.Routes(a.told(len(rows)), rows, outbound)
	}
	fl := c.Flags()
	fl.BoolVarP(&all, "all-namespaces", "A", false, "resources of all namespaces")
	fl.StringVarP(&labels, "selector", "l", "", "label selector, as kubectl's")
	fl.DurationVarP(&window, "time-window", "t", time.Minute, "how far back to look, at most what the mesh keeps")
	fl.StringVarP(&output, "output", "o", "table", "table or json")
	return c
}
