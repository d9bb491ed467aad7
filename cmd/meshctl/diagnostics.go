package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// controlAdminPort is where the control plane answers probes: in the chart, and as
// mesh-control's default, on a local mesh.
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
			of, _, err := a.fleet(cmd)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			pods, err := of.controllers(ctx)
			if err != nil {
				return err
			}
			return a.metrics(ctx, of, pods, controlAdminPort, func(p *corev1.Pod) string { return "# CONTAINER " + p.Spec.Containers[0].Name + " \n" }, plain)
		},
	}
	c.Flags().DurationVarP(&wait, "wait", "w", 30*time.Second, "for the answers of all replicas")
	return c
}

func (a *app) proxyMetricsCommand() *cobra.Command {
	var obfuscate bool
	c := &cobra.Command{
		Use:   "proxy-metrics TYPE/NAME",
		Short: "Print the metrics of the sidecars of a workload",
		Example: `  meshctl diagnostics proxy-metrics deploy/web -n emojivoto
  meshctl diagnostics proxy-metrics po/web-5d8c9 -n emojivoto
  meshctl diagnostics proxy-metrics deploy/web -n emojivoto --obfuscate`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			of, ns, err := a.fleet(cmd)
			if err != nil {
				return err
			}
			pods, err := of.podsOf(cmd.Context(), ns, args[0], "")
			if err != nil {
				return err
			}
			page := plain
			if obfuscate {
				page = render.Obfuscate
			}
			return a.metrics(cmd.Context(), of, meshed(pods), strconv.Itoa(annotation.AdminPort), func(*corev1.Pod) string { return "" }, page)
		},
	}
	c.Flags().BoolVar(&obfuscate, "obfuscate", false, "hashes in place of names, for others' eyes; the pods' own stay")
	return c
}

// plain is a page as it is.
func plain(page []byte) ([]byte, error) { return page, nil }

// metrics prints what pods answer, each under its name and what else there is to
// say of it. One that does not answer keeps nobody else's from being printed.
func (a *app) metrics(ctx context.Context, of fleet, pods []corev1.Pod, port string, more func(*corev1.Pod) string, page func([]byte) ([]byte, error)) error {
	if len(pods) == 0 {
		return errors.New("no pod to ask: none runs, or none has a sidecar")
	}
	var failed []error
	for i := range pods {
		text, err := of.get(ctx, &pods[i], port, "metrics")
		if err == nil {
			text, err = page(text)
		}
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
