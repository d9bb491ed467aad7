package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/installation"
	"github.com/tunmesh/tunmesh/deploy/manifest"
	"github.com/tunmesh/tunmesh/internal/version"
)

// named is how many pods an error names.
const named = 20

func (a *app) uninstallCommand() *cobra.Command {
	var (
		force  bool
		output string
	)
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Print what is to be deleted to remove the mesh from a cluster",
		Long: `Prints the names of all objects of the mesh, for kubectl delete. While pods still
have its sidecar it prints nothing and names them: they would stay without a
control plane.`,
		Example: `  meshctl uninstall | kubectl delete -f -
  meshctl uninstall --force | kubectl delete -f -`,
		Args: cobra.NoArgs,
		RunE: a.toDelete(&output, func(ctx context.Context, c *cluster) (manifest.Objects, error) {
			if !force {
				pods, err := installation.Injected(ctx, c.kube)
				if err != nil {
					return nil, err
				}
				if len(pods) > 0 {
					return nil, fmt.Errorf("%s still injected: %s; uninject them first (kubectl get ns,deploy,sts,ds,cronjob -A -o yaml | meshctl uninject - | kubectl apply -f -), make those again that stay (kubectl rollout restart), or use --force", count(len(pods), "pod is", "pods are"), some(pods))
				}
			}
			all, err := installation.Owned(ctx, c.dynamic)
			if err == nil && len(all) == 0 {
				err = installation.ErrNone
			}
			return all, err
		}),
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "even while pods are injected")
	c.Flags().StringVarP(&output, "output", "o", "yaml", "yaml or json")
	return c
}

func (a *app) pruneCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "prune",
		Short: "Print objects of the mesh that this version has no use for",
		Long: `Prints the names of objects that an earlier version, or other values, made and that
meshctl upgrade would not make again, for kubectl delete. There may be none. Node
agents that meshctl install-cni made are left alone.`,
		Example: `  meshctl prune | kubectl delete --ignore-not-found -f -`,
		Args:    cobra.NoArgs,
		RunE: a.toDelete(&output, func(ctx context.Context, c *cluster) (manifest.Objects, error) {
			all, err := installation.Superfluous(ctx, c.kube, c.dynamic, version.String())
			if err == nil && len(all) == 0 {
				fmt.Fprintln(a.err, "nothing to prune")
			}
			return all, err
		}),
	}
	c.Flags().StringVarP(&output, "output", "o", "yaml", "yaml or json")
	return c
}

// toDelete is a command that prints what it finds in the cluster for kubectl delete.
func (a *app) toDelete(output *string, find func(ctx context.Context, c *cluster) (manifest.Objects, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		if *output != "yaml" && *output != "json" {
			return usage("-o %s: want yaml or json", *output)
		}
		c, err := a.cluster()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), clusterWithin)
		defer cancel()
		all, err := find(ctx, c)
		if err != nil || len(all) == 0 {
			return err
		}
		return a.print(all.Removal(), *output)
	}
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// some names the first of many.
func some(names []string) string {
	if len(names) <= named {
		return strings.Join(names, ", ")
	}
	return strings.Join(names[:named], ", ") + fmt.Sprintf(" and %d more", len(names)-named)
}
