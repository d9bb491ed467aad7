package main

import (
	"fmt"
	"io"
	"time"

	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/tunmesh/tunmesh/control"
	"github.com/tunmesh/tunmesh/control/kube"
	"github.com/tunmesh/tunmesh/control/store"
	"github.com/tunmesh/tunmesh/internal/version"
)

// viewFlags are the flags of the view as they are written.
type viewFlags struct {
	cfg        control.ViewConfig
	kubeconfig string
	networks   networkFlags
	logs       logFlags
	retention  string
	size       string
}

func viewCommand(logs io.Writer) *cobra.Command {
	var f viewFlags
	cmd := &cobra.Command{
		Use:   "view",
		Short: "What people ask of a mesh in a cluster: figures, taps and health, behind the API server",
		Long: `Serves the aggregated API that meshctl asks in a cluster. It scrapes the
sidecars, keeps what they counted in a store that answers PromQL, and reaches
the taps at all replicas of the control plane. Its loss touches no traffic.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.config(logs)
			if err != nil {
				return err
			}
			if cfg.Client, err = kube.NewClient(f.kubeconfig, "mesh-view/"+version.String()); err != nil {
				return err
			}
			v, err := control.NewView(cfg)
			if err != nil {
				return err
			}
			return v.Run(cmd.Context())
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "file that says how to reach the API server; empty: as a pod does")
	fs.StringVar(&f.cfg.Listen, "listen", fmt.Sprintf("0.0.0.0:%d", control.ViewPort), "address of the aggregated API")
	fs.StringVar(&f.cfg.AdminListen, "admin-listen", "127.0.0.1:9990", "address of /live, /ready and /metrics; empty for none")
	fs.StringVar(&f.cfg.ControlAddress, "control", "", "host:port of the control plane's Service; empty: its name in the cluster's domain")
	fs.StringVar(&f.cfg.TokenFile, "token-file", "/var/run/secrets/tunmesh.io/identity/token", "token of the view's ServiceAccount for the mesh's audience")
	fs.StringVar(&f.cfg.AnchorsFile, "trust-anchors-file", "/var/run/tunmesh/trust-anchors/"+control.AnchorsKey, "the trust anchors, PEM; read whenever they are needed")
	fs.StringVar(&f.cfg.TrustDomain, "trust-domain", "cluster.local", "trust domain of all identities")
	fs.StringVar(&f.cfg.ClusterDomain, "cluster-domain", "cluster.local", "domain of all names")
	f.networks.add(fs)
	fs.DurationVar(&f.cfg.ScrapeInterval, "scrape-interval", 0, "time between two scrapes of a sidecar (0 = 1.5s)")
	fs.StringVar(&f.cfg.Store.Dir, "metrics-dir", "", "folder of the metrics store; empty: a temporary one")
	fs.StringVar(&f.retention, "metrics-retention", "24h", "how long figures are kept, such as 24h or 15d")
	fs.StringVar(&f.size, "metrics-size", "2Gi", "size of the folder's volume; four fifths of it are used, the oldest figures go first")
	fs.IntVar(&f.cfg.Store.MaxSeries, "metrics-series", 0, fmt.Sprintf("series in memory at most (0 = %d)", store.DefaultMaxSeries))
	fs.StringVar(&f.cfg.Prometheus, "prometheus-url", "", "Prometheus that scrapes the mesh, to ask instead of a store of our own; empty: none")
	f.logs.add(fs)
	return cmd
}

// config reads the flags.
func (f *viewFlags) config(logs io.Writer) (control.ViewConfig, error) {
	cfg := f.cfg
	var err error
	if cfg.MeshNetworks, cfg.HostAddresses, err = f.networks.read(); err != nil {
		return cfg, err
	}
	retention, err := model.ParseDuration(f.retention)
	if err != nil {
		return cfg, fmt.Errorf("--metrics-retention: %w", err)
	}
	size, err := resource.ParseQuantity(f.size)
	if err != nil {
		return cfg, fmt.Errorf("--metrics-size %q: %w", f.size, err)
	}
	cfg.Store.Retention, cfg.Store.MaxBytes = time.Duration(retention), size.Value()/5*4
	if cfg.Logger, err = f.logs.logger(logs); err != nil {
		return cfg, err
	}
	cfg.Version = version.String()
	return cfg, nil
}
