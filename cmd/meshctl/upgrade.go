package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/installation"
	"github.com/tunmesh/tunmesh/internal/version"
)

func (a *app) upgradeCommand() *cobra.Command {
	var f installFlags
	c := &cobra.Command{
		Use:   "upgrade",
		Short: "Print what changes the mesh of a cluster to this version, or to other values",
		Long: `Prints the manifests of the mesh that is installed, of this program's version: with
the values that install and earlier upgrades were given, those of the flags over
them, and the certificates that the cluster has where the flags bring no others.`,
		Example: `  meshctl upgrade | kubectl apply -f -
  meshctl upgrade --ha | kubectl apply -f -
  meshctl upgrade --identity-trust-anchors-file both.crt | kubectl apply -f -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if _, err := f.over(nil); err != nil { // before the cluster is asked
				return err
			}
			c, err := a.cluster()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), clusterWithin)
			defer cancel()
			if _, err := installation.Find(ctx, c.kube); err != nil {
				return err
			}
			v, err := installation.Stored(ctx, c.kube)
			if err != nil {
				return err
			}
			if v, err = f.over(v); err != nil {
				return err
			}
			if v, err = installation.Kept(ctx, c.kube, v); err != nil {
				return err
			}
			if v, err = installation.Certified(v, time.Now()); err != nil {
				return err
			}
			all, err := installation.Objects(v, version.String())
			if err != nil {
				return err
			}
			return a.print(all, f.output)
		},
	}
	f.add(c)
	return c
}
