//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/ctl"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/holder"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/state"
	"github.com/tunmesh/tunmesh/control/files"
)

// upFlags are those of up and demo.
type upFlags struct {
	wait, grace, maxBackoff time.Duration
	mtu                     int
	verbose                 bool
}

func (f *upFlags) register(c *cobra.Command) {
	c.Flags().DurationVar(&f.wait, "wait", time.Minute, "how long to wait for all pods to be ready")
	c.Flags().DurationVar(&f.grace, "grace-period", 5*time.Second, "at the end, no pod is given longer than this")
	c.Flags().DurationVar(&f.maxBackoff, "max-backoff", 30*time.Second, "the longest wait before a container that ended starts again")
	c.Flags().IntVar(&f.mtu, "mtu", 1500, "of the pods' interfaces, in bytes")
	c.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "log details in the mesh's log files")
}

func (f *upFlags) validate() error {
	if f.wait <= 0 || f.grace < 0 || f.maxBackoff <= 0 {
		return usage("--wait and --max-backoff must be above 0, --grace-period not below")
	}
	if f.mtu < 1280 || f.mtu > 65535 {
		return usage("--mtu %d: want 1280 to 65535", f.mtu)
	}
	return nil
}

func (a *app) localUpCommand() *cobra.Command {
	var (
		paths  []string
		detach bool
		flags  upFlags
	)
	c := &cobra.Command{
		Use:   "up -f FILE|DIR|- ...",
		Short: "Start a mesh, and keep it until Ctrl-C or, with --detach, until `local down`",
		Example: `  sudo meshctl local up -f app.yaml
  sudo meshctl local up -f manifests/ --detach --name staging`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.needRoot(); err != nil {
				return err
			}
			if err := flags.validate(); err != nil {
				return err
			}
			manifests, err := a.manifests(paths, true)
			if err != nil {
				return err
			}
			if detach {
				return a.upDetached(cmd.Context(), manifests, flags)
			}
			return a.upForeground(cmd.Context(), manifests, flags)
		},
	}
	c.Flags().StringSliceVarP(&paths, "filename", "f", nil, "manifests: files, folders, or - for stdin; none starts an empty mesh")
	c.Flags().BoolVar(&detach, "detach", false, "return when all pods are ready; the mesh stays")
	flags.register(c)
	return c
}

// launch starts the holder and applies the manifests.
func (a *app) launch(ctx context.Context, manifests []files.File, flags upFlags, foreground bool) (*holder.Launched, ctl.Client, error) {
	dir, err := a.mesh()
	if err != nil {
		return nil, ctl.Client{}, err
	}
	bin, err := binFolder()
	if err != nil {
		return nil, ctl.Client{}, err
	}
	p := a.progress()
	l, err := holder.Launch(ctx, holder.Config{Dir: dir, Bin: bin, Foreground: foreground, Grace: flags.grace,
		MaxBackoff: flags.maxBackoff, MTU: flags.mtu, Verbose: flags.verbose}, p.say)
	p.done()
	if err != nil {
		return nil, ctl.Client{}, err
	}
	client := ctl.Client{Dir: dir}
	if len(manifests) > 0 {
		r, err := client.Apply(ctx, manifests)
		if err != nil {
			l.Kill()
			_ = dir.Remove()
			return nil, client, err
		}
		for _, w := range r.Warnings {
			fmt.Fprintln(a.err, "warning:", w)
		}
	}
	return l, client, nil
}

func (a *app) upDetached(ctx context.Context, manifests []files.File, flags upFlags) error {
	_, client, err := a.launch(ctx, manifests, flags, false)
	if err != nil {
		return err
	}
	ps, down := a.name()+" local ps"+a.nameFlag(), a.name()+" local down"+a.nameFlag()
	if err := a.awaitPods(ctx, client, flags.wait); err != nil {
		return fmt.Errorf("the mesh %q is up, but %w\nlook with %s; end it with %s", client.Dir.Name(), err, ps, down)
	}
	fmt.Fprintf(a.out, "mesh %q is up; look with %s, end it with %s\n", client.Dir.Name(), ps, down)
	return nil
}

// nameFlag is how other commands name the mesh.
func (a *app) nameFlag() string {
	if a.local == "" {
		return ""
	}
	return " --name " + a.local
}

func (a *app) upForeground(ctx context.Context, manifests []files.File, flags upFlags) error {
	l, client, err := a.launch(ctx, manifests, flags, true)
	if err != nil {
		return err
	}
	switch err := a.awaitPods(ctx, client, flags.wait); {
	case ctx.Err() != nil:
	case err != nil:
		fmt.Fprintln(a.err, "warning:", err)
	default:
		fmt.Fprintf(a.err, "mesh %q is up; Ctrl-C ends it\n", client.Dir.Name())
	}
	select {
	case <-ctx.Done():
	case <-l.Done():
	}
	return a.leave(l, client, flags.grace, ctx.Err() != nil)
}

// leave ends a mesh in the foreground, and removes what it left. Unless that was
// asked for, the holder's end is an error.
func (a *app) leave(l *holder.Launched, client ctl.Client, grace time.Duration, asked bool) error {
	p := a.progress()
	defer p.done()
	l.Leave()
	t := time.NewTimer(grace + 20*time.Second)
	defer t.Stop()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case <-l.Done():
			ended = true
		case <-tick.C:
			p.say("ending the pods")
		case <-t.C:
			l.Kill()
		}
	}
	words := holder.LastWords(client.Dir)
	if err := client.Dir.Remove(); err != nil {
		return err
	}
	_ = state.RemoveRoot() // others may be up
	if err := l.Err(); err != nil && !asked {
		return fmt.Errorf("the mesh %q ended: %w; its last words: %s", client.Dir.Name(), err, words)
	}
	return nil
}
