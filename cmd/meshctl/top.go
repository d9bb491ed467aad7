package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/live"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/top"
)

type topFlags struct {
	tapFlags
	options  top.Options
	duration time.Duration
}

func (a *app) topCommand() *cobra.Command {
	var f topFlags
	c := &cobra.Command{
		Use:   "top TYPE[/NAME]…",
		Short: "Show requests by path as they pass, summed up, live",
		Long: `Sums up what a tap of resources shows: requests by client, server, method and
path, with the best, worst and last latency and the success rate. Counts are of
those that were seen, at most --max-rps a second; the last line says how many
were not.

Keys: q ends, ↑↓ scroll, s sorts by the next column, 1 to 9 by that column,
r reverses, p pauses, c begins anew. Into a pipe, one table is printed after
--for.`,
		Example: `  meshctl top deploy -n emojivoto
  meshctl top deploy/web -n emojivoto --for 10s -o json`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeKinds(everyKind, "authority"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.output != "table" && f.output != "json" {
				return usage("--output %q: want table or json", f.output)
			}
			if f.duration < 0 {
				return usage("--for %v: want a time, or 0", f.duration)
			}
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
			return a.top(cmd, &f, q, reqs)
		},
	}
	f.register(c)
	fl := c.Flags()
	fl.BoolVar(&f.options.Routes, "routes", false, "by route instead of method and path")
	fl.BoolVar(&f.options.HideSources, "hide-sources", false, "whoever asked")
	fl.DurationVar(&f.duration, "for", 0, "end after so long (0: into a pipe 10s, else when told)")
	fl.StringVarP(&f.output, "output", "o", "table", "table: live on a terminal; json: one document at the end")
	return c
}

// top shows the sum of taps until it is time.
func (a *app) top(cmd *cobra.Command, f *topFlags, q query.QueryClient, reqs []*query.TapRequest) error {
	drawn := a.live() && f.output == "table"
	if !drawn && f.duration == 0 {
		f.duration = 10 * time.Second
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	if f.duration > 0 {
		ctx, cancel = context.WithTimeout(ctx, f.duration)
		defer cancel()
	}
	s := &topScreen{table: top.New(f.options), flags: f, by: top.Count, bold: a.bold()}
	failed := make(chan error, 1) // of one slot: taps ends once
	go func() { failed <- taps(ctx, q, reqs, s.add); cancel() }()
	if drawn {
		if err := live.Run(ctx, a.in, a.terminal(), 500*time.Millisecond, s); err != nil {
			return err
		}
		cancel()
	}
	if err := <-failed; err != nil {
		return err
	}
	if drawn {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.lost + s.table.Lost; n > 0 {
		fmt.Fprintf(a.err, "%d events were not counted: more than --max-rps, or this reader is too slow\n", n)
	}
	rows := s.table.Rows(s.by, false)
	if f.output == "json" {
		return render.TopJSON(a.out, rows)
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintln(a.err, "No traffic found.")
		return err
	}
	return render.Top(a.out, rows, render.TopOptions{Routes: f.options.Routes, HideSources: f.options.HideSources})
}

// topScreen is a table of top that grows.
type topScreen struct {
	flags *topFlags
	bold  func(string) string

	mu      sync.Mutex
	table   *top.Table
	lost    uint64
	by      top.Column
	reverse bool
	paused  []top.Row // nil: it is not
	first   int       // the row that is drawn first
}

// add takes what a tap says.
func (s *topScreen) add(m *query.TapMessage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost += m.GetLost()
	if e := m.GetEvent(); e != nil {
		s.table.Add(e)
	}
	return nil
}

// Refresh implements live.Screen: events come by themselves.
func (s *topScreen) Refresh(context.Context) error { return nil }

// Draw implements live.Screen.
func (s *topScreen) Draw(width, height int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows := s.paused
	if rows == nil {
		rows = s.table.Rows(s.by, s.reverse)
	}
	var b strings.Builder
	o := render.TopOptions{Routes: s.flags.options.Routes, HideSources: s.flags.options.HideSources, Width: width}
	if err := render.Top(&b, rows, o); err != nil {
		return []string{err.Error()}
	}
	foot := "q: end, s: sort by " + [...]string{"source", "destination", "method", "path", "count", "best", "worst", "last", "success rate"}[s.by] + ", r: reverse, p: pause, c: anew"
	if n := s.lost + s.table.Lost; n > 0 {
		foot = fmt.Sprintf("%d events not counted. %s", n, foot)
	}
	if s.paused != nil {
		foot = "PAUSED. " + foot
	}
	return page(b.String(), &s.first, width, height, s.bold, foot)
}

// Key implements live.Screen.
func (s *topScreen) Key(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case name == "s" || name == "right" || name == "d":
		s.by = (s.by + 1) % (top.Success + 1)
	case name == "left" || name == "a":
		s.by = (s.by + top.Success) % (top.Success + 1)
	case len(name) == 1 && name >= "1" && name <= "9":
		s.by = top.Column(name[0] - '1')
	case name == "r":
		s.reverse = !s.reverse
	case name == "p" && s.paused == nil:
		s.paused = s.table.Rows(s.by, s.reverse)
	case name == "p":
		s.paused = nil
	case name == "c":
		s.table, s.lost, s.paused = top.New(s.flags.options), 0, nil
	default:
		scroll(&s.first, name)
	}
}
