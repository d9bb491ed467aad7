package main

import (
	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/deploy/manifest"
	"github.com/tunmesh/tunmesh/internal/version"
)

func (a *app) installCNICommand() *cobra.Command {
	var f installFlags
	c := &cobra.Command{
		Use:   "install-cni",
		Short: "Print the node agents alone, where somebody else may install what is privileged",
		Long: `Prints the manifests of the node agents, which are privileged, with their namespace
tunmesh-cni, for kubectl apply. Install the rest with --set cni.enabled=false.`,
		Example: `  meshctl install-cni | kubectl apply -f -
  meshctl install-cni --set cni.binDir=/home/kubernetes/bin | kubectl apply -f -`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := f.check(); err != nil {
				return err
			}
			v, err := f.over(nil)
			if err != nil {
				return err
			}
			if v.Text("version") == "" {
				v = v.With(version.String(), "version")
			}
			// They have no certificates, so none are asked for.
			v = v.With(true, "cni", "enabled").With(true, "identity", "externalCA").With(true, "identity", "issuer", "external")
			all, err := manifest.Render(v)
			if err != nil {
				return err
			}
			return a.print(all.Of(manifest.CNI), f.output)
		},
	}
	f.addValues(c)
	return c
}
