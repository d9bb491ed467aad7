package main

import (
	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/state"
)

// runHolder becomes the holder of a local mesh when args say so.
func runHolder([]string) {}

func (a *app) localCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "local",
		Short: "Run a mesh on this machine, without Kubernetes",
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
	return c
}
