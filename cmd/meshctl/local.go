//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/ctl"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/holder"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/sandbox"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/state"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/store"
	"github.com/tunmesh/tunmesh/control/files"
)

// becomePart becomes a part of a local mesh when args say so: parts are this same
// program, started by itself.
func becomePart(args []string) {
	sandbox.Main(args)
	if len(args) == 3 && args[1] == holder.Command {
		os.Exit(holder.Main(args[2]))
	}
}

const localLong = `Run a mesh on this machine, without Kubernetes, from ordinary manifests.

Pods are real: user, network, mount, UTS and IPC namespaces of their own, and a
PID namespace per container. Only images are not pulled: command (and args) of
each container run programs of this machine, whose files they see read-only.
Everything lives in namespaces of one process; when it ends, all ends, and the
machine is as it was. Root is needed.

Pods reach each other, and nothing beyond: a connection to an address outside of
the mesh fails with "network is unreachable" (from a meshed pod with "connection
refused"), a name outside of it with "no such host". A Service's cluster IP is
served by sidecars, for TCP: a pod without one, and UDP, use the pods' own
addresses, as a headless Service's name gives them. To reach a pod from here, use
"meshctl local port-forward".

A pod is meshed when it, its template or its namespace has the annotation
tunmesh.io/inject: enabled, or when "meshctl inject --local" has rewritten its manifest.`

func (a *app) localCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "local",
		Short: "Run a mesh on this machine, without Kubernetes",
		Long:  localLong,
		Args:  cobra.NoArgs,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if name == "" {
				return nil
			}
			if a.local != "" && a.local != name {
				return usage("--local %s and --name %s name different meshes", a.local, name)
			}
			a.local = name
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.PersistentFlags().StringVar(&name, "name", "", "name of the mesh, for several side by side (default "+state.DefaultName+")")
	c.AddCommand(
		a.localUpCommand(),
		a.localApplyCommand(),
		a.localDeleteCommand(),
		a.localPsCommand(),
		a.localExecCommand(),
		a.localLogsCommand(),
		a.localForwardCommand(),
		a.localDownCommand(),
		a.localDemoCommand(),
	)
	return c
}

// binFolder is the folder that this program is in.
func binFolder() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	return filepath.Dir(exe), nil
}

// manifests reads files and folders, and checks what can be checked without a
// mesh, so that mistakes are told before anything is started.
func (a *app) manifests(paths []string, alone bool) ([]files.File, error) {
	list, err := files.Read(a.in, paths...)
	if err != nil {
		return nil, err
	}
	set, err := files.ParseAll(list)
	if err == nil && alone {
		err = files.Check(set)
	}
	return list, err
}

// applied prints what an apply did.
func (a *app) applied(r ctl.Applied, output string) error {
	for _, w := range r.Warnings {
		fmt.Fprintln(a.err, "warning:", w)
	}
	return a.results(r.Results, output)
}

// results prints what became of objects.
func (a *app) results(list []store.Result, output string) error {
	if output == "json" {
		e := json.NewEncoder(a.out)
		e.SetIndent("", "  ")
		return e.Encode(append([]store.Result{}, list...)) // never null
	}
	for _, o := range list {
		if _, err := fmt.Fprintln(a.out, o.Object, o.Action); err != nil {
			return err
		}
	}
	return nil
}

// tableOrJSON is the check of -o where both are known.
func tableOrJSON(output string) error {
	if output != "table" && output != "json" {
		return usage("-o %s: want table or json", output)
	}
	return nil
}

// awaitPods waits until all pods are ready and tells how far it is.
func (a *app) awaitPods(ctx context.Context, c ctl.Client, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	p := a.progress()
	defer p.done()
	var last ctl.Status
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := c.Status(ctx)
		if err == nil {
			last = s
			if s.Control && s.Agent && s.Ready >= s.Pods && len(s.Waiting) == 0 {
				return nil
			}
			switch {
			case !s.Control:
				p.say("waiting for the control plane")
			case !s.Agent:
				p.say("waiting for the node agent")
			default:
				p.say(fmt.Sprintf("%d of %d pods ready", s.Ready, s.Pods))
			}
		} else if errors.Is(err, ctl.ErrDown) {
			return err
		}
		select {
		case <-ctx.Done():
			if last.Control && last.Agent {
				return fmt.Errorf("%d of %d pods are ready after %v:\n  %s", last.Ready, last.Pods, within, strings.Join(last.Waiting, "\n  "))
			}
			return fmt.Errorf("the control plane (answers: %v) or the node agent (%v) is not up after %v", last.Control, last.Agent, within)
		case <-tick.C:
		}
	}
}
