// Mesh-control is the control plane as a process: flags, then control.Config,
// then Run.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/control/kube"
	"github.com/tunmesh/tunmesh/control/policy"
	"github.com/tunmesh/tunmesh/internal/annotation"
	"github.com/tunmesh/tunmesh/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	cmd := command(os.Stderr)
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "mesh-control:", err)
		stop()
		os.Exit(1)
	}
}

// Sources of the cluster.
const (
	sourceFiles = "files"
	sourceKube  = "kube"
)

// flags are the flags as they are written.
type flags struct {
	source          string
	inboundPolicy   string
	clusterNetworks string
	networks        networkFlags
	logs            logFlags
	kubeconfig      string
	collector       string
	sampling        string
	cluster         control.Cluster
	cfg             control.Config
}

func command(logs io.Writer) *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:           "mesh-control",
		Short:         "The control plane of a mesh: discovery, policy, identity, tap and metrics for its sidecars",
		Args:          cobra.NoArgs,
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.config(logs)
			if err != nil {
				return err
			}
			if f.source == sourceKube {
				if f.cluster.Client, err = kube.NewClient(f.kubeconfig, "mesh-control/"+version.String()); err != nil {
					return err
				}
				cfg.Cluster = &f.cluster
			}
			plane, err := control.New(cfg)
			if err != nil {
				return err
			}
			return plane.Run(cmd.Context())
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.source, "source", "files", "where the cluster is described: files (folders of Kubernetes manifests) or kube (the API server)")
	fs.StringSliceVar(&f.cfg.Dirs, "dir", nil, "with files: folder of manifests, watched; repeat it for several (required)")
	fs.StringVar(&f.cfg.StateDir, "state-dir", "", "with files: folder that keeps the certificate authority and the token key (required)")
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "with kube: file that says how to reach the API server; empty: as a pod does")
	fs.StringVar(&f.cluster.WebhookListen, "webhook-listen", fmt.Sprintf("0.0.0.0:%d", control.WebhookPort), "with kube: address of the injector's webhook; empty for none")
	fs.StringVar(&f.cluster.CNINamespace, "cni-namespace", "tunmesh-cni", "with kube: namespace of the node agents, which get a copy of the trust anchors; empty for none")
	fs.BoolVar(&f.cluster.Repair, "repair", false, "with kube: evict pods that came without a sidecar which they should have, so that they are made again")
	fs.StringVar(&f.cluster.ProxyImage, "proxy-image", "", "with kube: the sidecars' image, without its tag; empty: the project's own")
	fs.StringVar(&f.cluster.ProxyVersion, "proxy-version", "", "with kube: the sidecars' tag; empty: this program's version")
	fs.StringVar(&f.collector, "trace-collector", "", "with kube: where sidecars send spans unless an annotation says otherwise, as collector.observability:4317; empty: nowhere")
	fs.StringVar(&f.sampling, "trace-sampling", "", "with kube: which share of the requests they trace of which nobody has decided, as 0.01 or 1%; empty: 1%")
	fs.StringVar(&f.cfg.Listen, "listen", fmt.Sprintf("0.0.0.0:%d", control.Port), "address of the sidecars' API")
	fs.StringVar(&f.cfg.AdminListen, "admin-listen", "127.0.0.1:9990", "address of /live, /ready and /metrics; empty for none")
	fs.StringVar(&f.cfg.QuerySocket, "query-socket", "", "path of the unix socket of the query API, mode 0600; empty for none")
	fs.StringVar(&f.cfg.ViewSocket, "view-socket", "", "path of the unix socket of the same in HTTP, and of the console, mode 0600; empty for none")
	fs.StringVar(&f.cfg.TrustDomain, "trust-domain", "cluster.local", "trust domain of all identities")
	fs.StringVar(&f.cfg.ClusterDomain, "cluster-domain", "cluster.local", "domain of all names")
	f.networks.add(fs)
	fs.StringVar(&f.clusterNetworks, "cluster-networks", policy.DefaultNetworks, "comma-separated ranges that cluster-* inbound policies take for the cluster")
	fs.StringVar(&f.inboundPolicy, "default-inbound-policy", "all-unauthenticated", "all-unauthenticated, all-authenticated, cluster-unauthenticated, cluster-authenticated, deny or audit")
	fs.DurationVar(&f.cfg.StopDelay, "stop-delay", 0, "how long to go on, not ready any more, when told to stop")
	fs.DurationVar(&f.cfg.ScrapeInterval, "scrape-interval", 0, "time between two scrapes of a sidecar (0 = 1.5s)")
	f.logs.add(fs)
	cmd.AddCommand(viewCommand(logs))
	return cmd
}

// config reads the flags.
func (f *flags) config(logs io.Writer) (control.Config, error) {
	cfg := f.cfg
	switch {
	case f.source != sourceFiles && f.source != sourceKube:
		return cfg, fmt.Errorf("--source %q is not known: use files or kube", f.source)
	case f.source == sourceKube && len(cfg.Dirs)+len(cfg.StateDir) > 0:
		return cfg, errors.New("--dir and --state-dir are for --source=files: leave them out with kube")
	}
	var err error
	if cfg.DefaultInboundPolicy, err = policy.ParseDefault(f.inboundPolicy); err != nil {
		return cfg, fmt.Errorf("--default-inbound-policy: %w", err)
	}
	if cfg.MeshNetworks, cfg.HostAddresses, err = f.networks.read(); err != nil {
		return cfg, err
	}
	if cfg.ClusterNetworks, err = policy.ParseNetworks(f.clusterNetworks); err != nil {
		return cfg, fmt.Errorf("--cluster-networks: %w", err)
	}
	if cfg.Logger, err = f.logs.logger(logs); err != nil {
		return cfg, err
	}
	if f.cluster.ProxyDefaults, err = f.proxyDefaults(); err != nil {
		return cfg, err
	}
	cfg.Version = version.String()
	return cfg, nil
}

// proxyDefaults are the annotations of pods for which nobody says otherwise.
func (f *flags) proxyDefaults() (map[string]string, error) {
	all := map[string]string{}
	if f.collector != "" {
		if _, err := annotation.ParseCollector(f.collector); err != nil {
			return nil, fmt.Errorf("--trace-collector: %w", err)
		}
		all[annotation.TraceCollector] = f.collector
	}
	if f.sampling != "" {
		if _, err := annotation.ParseSampling(f.sampling); err != nil {
			return nil, fmt.Errorf("--trace-sampling: %w", err)
		}
		all[annotation.TraceSampling] = f.sampling
	}
	if f.source != sourceKube && len(all) > 0 {
		return nil, errors.New("--trace-collector and --trace-sampling are for --source=kube: elsewhere annotate namespaces")
	}
	return all, nil
}
