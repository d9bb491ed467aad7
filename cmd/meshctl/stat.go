package main

import (
	"cmp"
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

const (
	askWithin = 10 * time.Second
	askAtOnce = 8 // kinds or names
	// maxWindow is what any mesh may keep; what this one does, it says itself.
	maxWindow = 365 * 24 * time.Hour
)

type statFlags struct {
	to, toNamespace, from, fromNamespace, output, labels string
	window, every                                        time.Duration
	all, unmeshed, watch                                 bool
	everyKind                                            bool // requests are of more than is named
}

func (a *app) statCommand() *cobra.Command {
	var f statFlags
	c := &cobra.Command{
		Use:   "stat TYPE[/NAME]…|all",
		Short: "Show success rate, requests per second, latency and TLS of resources",
		Long: `Shows what the mesh measured of resources' traffic in the last window: deploy,
po, svc, ns, sts, ds, job, cj (by the Jobs that a CronJob made), rs, rc, au (names
that requests ask for), or one of them as TYPE/NAME; all but ns with all, a table
for each kind that there is. Those without a sidecar are left out unless --unmeshed
says otherwise, or one is named.

Figures are of inbound requests; probes are not counted. A Service's are what
its clients saw. With --to or --from they are of the requests between the two,
as the client's side saw them. TLS is the share of requests under mTLS.`,
		Example: `  meshctl stat deploy -n emojivoto
  meshctl stat deploy/web -n emojivoto --to svc/voting-svc
  meshctl stat deploy -n emojivoto --watch
  meshctl stat all -n emojivoto
  meshctl stat po -A -o json`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeKinds(),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := a.asked(cmd)
			if err != nil {
				return err
			}
			reqs, err := f.requests(args, at.namespace)
			if err != nil {
				return err
			}
			q, done, err := at.connect()
			if err != nil {
				return err
			}
			defer done()
			ask := func(ctx context.Context) ([]*query.StatRow, error) { return f.ask(ctx, q, reqs) }
			if f.watch {
				return a.watchStat(cmd, f, ask)
			}
			rows, err := ask(cmd.Context())
			if err != nil {
				return err
			}
			if f.output == "json" {
				return render.StatJSON(a.out, rows)
			}
			return f.print(a.told(len(rows)), rows)
		},
	}
	fl := c.Flags()
	fl.BoolVarP(&f.all, "all-namespaces", "A", false, "resources of all namespaces")
	fl.StringVarP(&f.labels, "selector", "l", "", "label selector, as kubectl's")
	fl.DurationVarP(&f.window, "time-window", "t", time.Minute, "how far back to look, at most what the mesh keeps")
	fl.StringVar(&f.to, "to", "", "only traffic to this resource (TYPE or TYPE/NAME)")
	fl.StringVar(&f.toNamespace, "to-namespace", "", "namespace of --to (default: of the resource)")
	fl.StringVar(&f.from, "from", "", "only traffic from this resource")
	fl.StringVar(&f.fromNamespace, "from-namespace", "", "namespace of --from (default: of the resource)")
	fl.StringVarP(&f.output, "output", "o", "table", "table, wide or json")
	fl.BoolVar(&f.unmeshed, "unmeshed", false, "resources without any sidecar, too")
	fl.BoolVarP(&f.watch, "watch", "w", false, "draw again and again, until interrupted")
	fl.DurationVar(&f.every, "interval", 2*time.Second, "time between two drawings of --watch")
	completeKindsOf(c, "to", everyKind, "authority")
	completeKindsOf(c, "from", everyKind, "authority", "service")
	return c
}

// ask returns the rows that are to be shown.
func (f *statFlags) ask(ctx context.Context, q query.QueryClient, reqs []*query.StatRequest) ([]*query.StatRow, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	answers := make([]*query.StatResponse, len(reqs))
	asking, ctx := errgroup.WithContext(ctx)
	asking.SetLimit(askAtOnce)
	for i, r := range reqs {
		asking.Go(func() (err error) {
			answers[i], err = q.Stat(ctx, r)
			return err
		})
	}
	if err := asking.Wait(); err != nil {
		return nil, apiError(err)
	}
	var rows []*query.StatRow
	for i, r := range reqs {
		for _, row := range answers[i].GetRows() {
			if f.unmeshed || row.GetMeshedPods() > 0 || row.GetHasTraffic() || !ownsPods(row) || r.GetResource().GetName() != "" {
				rows = append(rows, row)
			}
		}
	}
	slices.SortStableFunc(rows, func(a, b *query.StatRow) int {
		return cmp.Or(cmp.Compare(a.GetKind(), b.GetKind()), cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return rows, nil
}

// ownsPods reports whether a row counts pods, meshed or not.
func ownsPods(r *query.StatRow) bool { return r.GetKind() != "service" && r.GetKind() != "authority" }

func (f *statFlags) print(w io.Writer, rows []*query.StatRow) error {
	return render.Stat(w, rows, f.options(0))
}

func (f *statFlags) options(width int) render.StatOptions {
	return render.StatOptions{Namespace: f.all, Kinds: f.everyKind, Wide: f.output == "wide", Width: width}
}

// told is where rows are printed: that there are none is no table, and goes past
// whoever reads one.
func (a *app) told(rows int) io.Writer {
	if rows == 0 {
		return a.err
	}
	return a.out
}

// checkWindow reports what is wrong with a --time-window.
func checkWindow(d time.Duration) error {
	if d < time.Second || d%time.Second != 0 || d > maxWindow {
		return usage("--time-window %v: want whole seconds, at least 1s", d)
	}
	return nil
}

func (f *statFlags) requests(args []string, namespace string) ([]*query.StatRequest, error) {
	if f.output != "table" && f.output != "wide" && f.output != "json" {
		return nil, usage("--output %q: want table, wide or json", f.output)
	}
	if err := checkWindow(f.window); err != nil {
		return nil, err
	}
	switch {
	case f.every < 500*time.Millisecond || f.every > time.Hour:
		return nil, usage("--interval %v: want 500ms to 1h", f.every)
	case f.watch && f.output == "json":
		return nil, usage("--watch draws a table: leave out -o json")
	case f.to != "" && f.from != "":
		return nil, usage("--to and --from can't be combined")
	}
	sel, err := f.selectors(args, namespace)
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

// selectors reads what is asked about; with "all" each kind that has an answer:
// authorities have no labels, and neither they nor Services send anything.
func (f *statFlags) selectors(args []string, namespace string) ([]*query.Selector, error) {
	f.everyKind = len(args) == 1 && strings.EqualFold(args[0], everyKind)
	if !f.everyKind {
		return parseResources(args, namespace, f.all, f.labels)
	}
	var all []*query.Selector
	for _, names := range resourceKinds() {
		k := names[0]
		switch {
		case k == "namespace": // the sum of the others
		case k == "authority" && (f.labels != "" || f.to != ""), k == "service" && f.to != "":
		default:
			sel, err := parseResources([]string{k}, namespace, f.all, f.labels)
			if err != nil {
				return nil, err
			}
			all = append(all, sel...)
		}
	}
	return all, nil
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
