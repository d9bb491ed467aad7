package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

const askWithin = 10 * time.Second

type statFlags struct {
	to, toNamespace, from, fromNamespace, output, labels string
	window                                               time.Duration
	all                                                  bool
}

func (a *app) statCommand() *cobra.Command {
	var f statFlags
	c := &cobra.Command{
		Use:   "stat TYPE[/NAME]…",
		Short: "Show success rate, requests per second, latency and TLS of resources",
		Long: `Shows what the mesh measured of resources' traffic in the last window: deploy,
po, svc, ns, sts, ds, or one of them as TYPE/NAME.

Figures are of inbound requests; probes are not counted. A Service's are what
its clients saw. With --to or --from they are of the requests between the two,
as the client's side saw them. TLS is the share of requests under mTLS.`,
		Example: `  meshctl stat deploy -n emojivoto
  meshctl stat deploy/web -n emojivoto --to svc/voting-svc
  meshctl stat po -A -o json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := a.asked(cmd)
			if err != nil {
				return err
			}
			reqs, err := f.requests(args, at.namespace)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), askWithin)
			defer cancel()
			q, done, err := at.connect()
			if err != nil {
				return err
			}
			defer done()
			return f.run(ctx, cmd, q, reqs)
		},
	}
	fl := c.Flags()
	fl.BoolVarP(&f.all, "all-namespaces", "A", false, "resources of all namespaces")
	fl.StringVarP(&f.labels, "selector", "l", "", "label selector, as kubectl's")
	fl.DurationVarP(&f.window, "time-window", "t", time.Minute, "how far back to look, at most 1m")
	fl.StringVar(&f.to, "to", "", "only traffic to this resource (TYPE or TYPE/NAME)")
	fl.StringVar(&f.toNamespace, "to-namespace", "", "namespace of --to (default: of the resource)")
	fl.StringVar(&f.from, "from", "", "only traffic from this resource")
	fl.StringVar(&f.fromNamespace, "from-namespace", "", "namespace of --from (default: of the resource)")
	fl.StringVarP(&f.output, "output", "o", "table", "table, wide or json")
	return c
}

func (f *statFlags) run(ctx context.Context, cmd *cobra.Command, q query.QueryClient, reqs []*query.StatRequest) error {
	var rows []*query.StatRow
	for _, r := range reqs {
		resp, err := q.Stat(ctx, r)
		if err != nil {
			return apiError(err)
		}
		rows = append(rows, resp.GetRows()...)
	}
	if f.output == "json" {
		return render.StatJSON(cmd.OutOrStdout(), rows)
	}
	kinds := map[string]bool{}
	for _, r := range rows {
		kinds[r.GetKind()] = true
	}
	return render.Stat(cmd.OutOrStdout(), rows, render.StatOptions{
		Namespace: f.all, Wide: f.output == "wide", KindInName: len(kinds) > 1,
	})
}

func (f *statFlags) requests(args []string, namespace string) ([]*query.StatRequest, error) {
	switch {
	case f.output != "table" && f.output != "wide" && f.output != "json":
		return nil, usage("--output %q: want table, wide or json", f.output)
	case f.window < time.Second || f.window > time.Minute:
		return nil, usage("--time-window %v: want 1s to 1m, which is what is kept", f.window)
	case f.to != "" && f.from != "":
		return nil, usage("--to and --from can't be combined")
	}
	sel, err := parseResources(args, namespace, f.all, f.labels)
	if err != nil {
		return nil, err
	}
	to, err := parseOne("to", f.to, orElse(f.toNamespace, namespace))
	if err != nil {
		return nil, err
	}
	from, err := parseOne("from", f.from, orElse(f.fromNamespace, namespace))
	if err != nil {
		return nil, err
	}
	var out []*query.StatRequest
	for _, s := range sel {
		out = append(out, &query.StatRequest{Resource: s, WindowSeconds: uint32(f.window / time.Second), To: to, From: from})
	}
	return out, nil
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
