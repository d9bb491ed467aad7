package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

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
	c.AddCommand(a.controllerMetricsCommand(), a.proxyMetricsCommand(), a.endpointsCommand("meshctl diagnostics"), a.policyCommand(), a.connectionsCommand())
	return c
}

func (a *app) controllerMetricsCommand() *cobra.Command {
	var wait time.Duration
	c := &cobra.Command{
		Use:     "controller-metrics",
		Aliases: []string{"cp-metrics"},
		Short:   "Print the metrics of every replica of the control plane",
		Example: `  meshctl diagnostics controller-metrics`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if wait <= 0 {
				return usage("--wait %v: want some time", wait)
			}
			c, err := a.cluster()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			pods, err := c.listPods(ctx, manifest.Namespace, "app.kubernetes.io/name="+control.ServiceAccount)
			if err != nil {
				return err
			}
			return a.metrics(ctx, c, pods, controlAdminPort, func(p *corev1.Pod) string { return "# CONTAINER " + p.Spec.Containers[0].Name + " \n" })
		},
	}
	c.Flags().DurationVarP(&wait, "wait", "w", 30*time.Second, "for the answers of all replicas")
	return c
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
			return a.metrics(cmd.Context(), c, meshed(pods), strconv.Itoa(annotation.AdminPort), func(*corev1.Pod) string { return "" })
		},
	}
}

// metrics prints what pods answer, each under its name and what else there is to
// say of it. One that does not answer keeps nobody else's from being printed.
func (a *app) metrics(ctx context.Context, c *cluster, pods []corev1.Pod, port string, more func(*corev1.Pod) string) error {
	if len(pods) == 0 {
		return errors.New("no pod to ask: none runs, or none has a sidecar")
	}
	var failed []error
	for i := range pods {
		text, err := c.get(ctx, &pods[i], port, "metrics")
		switch {
		case err != nil && pods[i].DeletionTimestamp != nil: // it may be over before its object is
			if _, err := fmt.Fprintf(a.err, "pod %s/%s is being deleted and does not answer any more\n", pods[i].Namespace, pods[i].Name); err != nil {
				return err
			}
		case err != nil:
			failed = append(failed, err)
		default:
			if _, err := fmt.Fprintf(a.out, "#\n# POD %s (%d of %d)\n%s#\n%s", pods[i].Name, i+1, len(pods), more(&pods[i]), text); err != nil {
				return err
			}
		}
	}
	return errors.Join(failed...)
}
