package main

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/deploy/manifest"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// controlAdminPort is where the chart has the control plane answer probes.
const controlAdminPort = "9990"

func (a *app) diagnosticsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "diagnostics",
		Aliases: []string{"dg"},
		Short:   "Look at what the mesh says of itself",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(a.controllerMetricsCommand(), a.proxyMetricsCommand(), a.endpointsCommand("meshctl diagnostics"), a.policyCommand())
	return c
}

func (a *app) controllerMetricsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "controller-metrics",
		Aliases: []string{"cp-metrics"},
		Short:   "Print the metrics of every replica of the control plane",
		Example: `  meshctl diagnostics controller-metrics`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.cluster()
			if err != nil {
				return err
			}
			pods, err := c.listPods(cmd.Context(), manifest.Namespace, "app.kubernetes.io/name="+control.ServiceAccount)
			if err != nil {
				return err
			}
			return a.metrics(cmd, c, pods, controlAdminPort)
		},
	}
}

func (a *app) proxyMetricsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "proxy-metrics TYPE/NAME",
		Short: "Print the metrics of the sidecars of a workload",
		Example: `  meshctl diagnostics proxy-metrics deploy/web -n emojivoto
  meshctl diagnostics proxy-metrics po/web-5d8c9 -n emojivoto`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ns, err := a.namespace()
			if err != nil {
				return err
			}
			c, err := a.cluster()
			if err != nil {
				return err
			}
			pods, err := c.podsOf(cmd.Context(), ns, args[0], "")
			if err != nil {
				return err
			}
			return a.metrics(cmd, c, meshed(pods), strconv.Itoa(annotation.AdminPort))
		},
	}
}

// metrics prints what pods answer, each under its name.
func (a *app) metrics(cmd *cobra.Command, c *cluster, pods []corev1.Pod, port string) error {
	if len(pods) == 0 {
		return errors.New("no pod to ask: none runs, or none has a sidecar")
	}
	for i := range pods {
		text, err := c.get(cmd.Context(), &pods[i], port, "metrics")
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(a.out, "#\n# POD %s (%d of %d)\n#\n%s", pods[i].Name, i+1, len(pods), text); err != nil {
			return err
		}
	}
	return nil
}
