//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/holder"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
	"github.com/tunmesh/tunmesh/control/files"
	"github.com/tunmesh/tunmesh/control/inject"
	"github.com/tunmesh/tunmesh/deploy"
	"github.com/tunmesh/tunmesh/internal/version"
)

const (
	demoNamespace = "emojivoto"
	// demoRefresh is how often the table changes on a terminal, demoPrint how
	// often it is printed elsewhere.
	demoRefresh = time.Second
	demoPrint   = 10 * time.Second
)

func (a *app) localDemoCommand() *cobra.Command {
	var (
		duration time.Duration
		output   string
		flags    upFlags
	)
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run the sample application meshed, and show live figures until Ctrl-C",
		Long: `Run the sample application (a page where people vote for emoji, its two
backends and a bot that votes) with a sidecar in each pod, and show what the
mesh measures. One kind of vote fails sometimes: that is the sample's, for stat
and tap to show. Ctrl-C ends everything and leaves nothing.`,
		Example: `  sudo meshctl local demo
  sudo meshctl local demo --duration 60s -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := tableOrJSON(output); err != nil {
				return err
			}
			if duration < 0 {
				return usage("--duration must not be below 0")
			}
			if err := flags.validate(); err != nil {
				return err
			}
			if err := a.needRoot(); err != nil {
				return err
			}
			return a.demo(cmd.Context(), duration, output, flags)
		},
	}
	c.Flags().DurationVar(&duration, "duration", 0, "end after so long (0: at Ctrl-C)")
	c.Flags().StringVarP(&output, "output", "o", "table", "table: live; json: one document at the end, as of stat deploy -o json")
	flags.register(c)
	return c
}

func (a *app) demo(ctx context.Context, duration time.Duration, output string, flags upFlags) error {
	manifest, _, err := inject.Manifests(deploy.Emojivoto(), inject.Config{Version: version.String()})
	if err != nil {
		return fmt.Errorf("inject the sample: %w", err)
	}
	l, client, err := a.launch(ctx, []files.File{{Name: "emojivoto.yaml", Data: manifest}}, flags, true)
	if err != nil {
		return err
	}
	shown := a.demoShow(ctx, l, duration, output, func() error { return a.awaitPods(ctx, client, flags.wait) })
	if err := a.leave(l, client, flags.grace, true); err != nil {
		return err
	}
	if ctx.Err() != nil && output == "table" {
		return nil // Ctrl-C is how a demo ends
	}
	return shown
}

// demoShow shows figures until the duration, the user or the mesh ends it.
func (a *app) demoShow(ctx context.Context, l *holder.Launched, duration time.Duration, output string, ready func() error) error {
	if err := ready(); err != nil {
		return err
	}
	q, done, err := a.query()
	if err != nil {
		return err
	}
	defer done()
	d := demoView{q: q, out: a.out, live: a.live()}
	if output == "table" {
		fmt.Fprint(a.err, a.demoHints())
	}
	var over <-chan time.Time
	if duration > 0 {
		t := time.NewTimer(duration)
		defer t.Stop()
		over = t.C
	}
	every := demoPrint
	if d.live {
		every = demoRefresh
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if output == "table" {
				if err := d.draw(ctx); err != nil && ctx.Err() == nil {
					return err
				}
			}
			continue
		case <-l.Done():
			return fmt.Errorf("the mesh ended by itself: %w", l.Err())
		case <-over:
		case <-ctx.Done():
		}
		break
	}
	final, cancel := context.WithTimeout(context.WithoutCancel(ctx), askWithin)
	defer cancel()
	if output == "table" {
		return d.draw(final)
	}
	rows, err := d.rows(final)
	if err != nil {
		return err
	}
	return render.StatJSON(a.out, rows)
}

func (a *app) demoHints() string {
	meshctl := a.name()
	if a.local != "" {
		meshctl += " --local " + a.local
	}
	var b strings.Builder
	b.WriteString("The sample runs, every pod with a sidecar. In another terminal (as root):\n")
	w := tabwriter.NewWriter(&b, 0, 8, 3, ' ', 0)
	for _, h := range [][2]string{
		{"stat deploy -n " + demoNamespace, "what you see below"},
		{"tap deploy/web -n " + demoNamespace, "requests as they happen"},
		{"local ps", "the pods"},
		{"local exec -n " + demoNamespace + " deploy/web -- sh", "a shell in one of them"},
		{"local port-forward svc/web-svc -n " + demoNamespace + " 8080:80", "then open http://127.0.0.1:8080"},
	} {
		fmt.Fprintf(w, "  %s %s\t%s\n", meshctl, h[0], h[1])
	}
	_ = w.Flush()
	b.WriteString("Ctrl-C ends it all.\n\n")
	return b.String()
}

// live says whether the output is a terminal on which lines may be replaced.
func (a *app) live() bool {
	f, ok := a.out.(*os.File)
	return ok && isTerminal(f) && a.env("TERM") != "dumb"
}

// demoView draws the table, on a terminal over the one before.
type demoView struct {
	q     query.QueryClient
	out   io.Writer
	live  bool
	lines int
}

func (d *demoView) rows(ctx context.Context) ([]*query.StatRow, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	r, err := d.q.Stat(ctx, &query.StatRequest{Resource: &query.Selector{Kind: "deployment", Namespace: demoNamespace}, WindowSeconds: 60})
	if err != nil {
		return nil, apiError(err)
	}
	return r.GetRows(), nil
}

func (d *demoView) draw(ctx context.Context) error {
	rows, err := d.rows(ctx)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := render.Stat(&b, rows, render.StatOptions{}); err != nil {
		return err
	}
	if d.live && d.lines > 0 {
		fmt.Fprintf(d.out, "\033[%dA\033[J", d.lines)
	}
	d.lines = strings.Count(b.String(), "\n")
	if !d.live {
		b.WriteByte('\n')
	}
	_, err = d.out.Write(b.Bytes())
	return err
}
