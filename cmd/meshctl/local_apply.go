//go:build linux

package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/ctl"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/store"
)

func (a *app) localApplyCommand() *cobra.Command {
	var (
		paths  []string
		wait   time.Duration
		output string
	)
	c := &cobra.Command{
		Use:     "apply -f FILE|DIR|- ...",
		Short:   "Add objects to a running mesh, and change those that are there",
		Example: "  sudo meshctl local apply -f app.yaml --wait 30s",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(paths) == 0 {
				return usage("-f is needed: manifests to apply")
			}
			if err := tableOrJSON(output); err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			manifests, err := a.manifests(paths, false)
			if err != nil {
				return err
			}
			r, err := client.Apply(cmd.Context(), manifests)
			if err != nil {
				return err
			}
			if err := a.applied(r, output); err != nil {
				return err
			}
			if wait > 0 {
				return a.awaitPods(cmd.Context(), client, wait)
			}
			return nil
		},
	}
	c.Flags().StringSliceVarP(&paths, "filename", "f", nil, "manifests: files, folders, or - for stdin")
	c.Flags().DurationVar(&wait, "wait", 0, "wait so long for all pods to be ready (0: not at all)")
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

func (a *app) localDeleteCommand() *cobra.Command {
	var namespace, output string
	c := &cobra.Command{
		Use:   "delete KIND/NAME",
		Short: "Remove an object from a running mesh; a workload's pod is made anew",
		Example: `  sudo meshctl local delete deployment/web -n shop
  sudo meshctl local delete pod/web-5d9c7f-8a1b2c`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, name, ok := strings.Cut(args[0], "/")
			if !ok || name == "" {
				return usage("%q: want KIND/NAME", args[0])
			}
			full, ok := kinds()[strings.ToLower(kind)]
			if !ok {
				return usage("kind %q is not known", kind)
			}
			if err := tableOrJSON(output); err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			if err := client.Delete(cmd.Context(), ctl.Delete{Kind: full, Namespace: namespace, Name: name}); err != nil {
				return err
			}
			return a.results([]store.Result{{Object: grouped(full) + "/" + name, Action: "deleted"}}, output)
		},
	}
	c.Flags().StringVarP(&namespace, "namespace", "n", "default", "the object's namespace")
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

// grouped is a kind with its API group, as kubectl prints it.
func grouped(kind string) string {
	switch kind {
	case "deployment", "statefulset", "daemonset":
		return kind + ".apps"
	}
	return kind
}

// kinds are the names that people write.
func kinds() map[string]string {
	m := map[string]string{"sa": "serviceaccount", "svc": "service", "deploy": "deployment", "sts": "statefulset", "ds": "daemonset",
		"po": "pod", "cm": "configmap", "ns": "namespace"}
	for _, k := range []string{"namespace", "serviceaccount", "service", "deployment", "statefulset", "daemonset", "pod", "configmap", "secret"} {
		m[k], m[k+"s"] = k, k
	}
	return m
}

// client is for a mesh that is up.
func (a *app) client() (ctl.Client, error) {
	if err := a.needRoot(); err != nil {
		return ctl.Client{}, err
	}
	dir, err := a.mesh()
	return ctl.Client{Dir: dir}, err
}
