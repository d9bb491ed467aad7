package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/cni/agent"
	"github.com/tunmesh/tunmesh/cni/install"
	"github.com/tunmesh/tunmesh/cni/keeper"
	"github.com/tunmesh/tunmesh/cni/plugin"
	"github.com/tunmesh/tunmesh/internal/version"
)

// agentFlags are what a person says; config makes sense of it.
type agentFlags struct {
	cfg                agent.Config
	networks           []string
	netDir, binDir     string
	withoutAnnotations string
	admin, level       string
}

func agentCommand() *cobra.Command {
	var o agentFlags
	c := &cobra.Command{
		Use:   "agent",
		Short: "Serve a node: hold TUN queues and hand them to sidecars",
		Args:  cobra.NoArgs,
		Example: `  mesh-cni agent --node worker-1 --control 10.244.0.1:8086 \
    --control-id spiffe://cluster.local/ns/tunmesh/sa/mesh-control \
    --trust-anchors /etc/tunmesh/anchors.pem`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.config()
			if err != nil {
				return err
			}
			return agent.Run(cmd.Context(), cfg)
		},
	}
	host, _ := os.Hostname()
	f := c.Flags()
	f.StringVar(&o.cfg.Dir, "dir", plugin.DefaultStateDir, "state folder: sockets and one file a pod")
	f.StringVar(&o.cfg.Node, "node", host, "this node's name, told to sidecars")
	f.StringVar(&o.cfg.TrustAnchorsFile, "trust-anchors", "", "PEM file of the mesh's trust anchors, read at every handover")
	f.StringVar(&o.cfg.Control, "control", "", "IP:PORT or HOST:PORT of the control plane")
	f.StringVar(&o.cfg.ControlID, "control-id", "spiffe://cluster.local/ns/tunmesh/sa/mesh-control", "identity of the control plane")
	f.StringSliceVar(&o.networks, "networks", nil, "the mesh's own address ranges (pods, services), as CIDRs")
	f.StringVar(&o.netDir, "cni-net-dir", "", "the container runtime's folder of conflists: keep the plugin in its chain")
	f.StringVar(&o.binDir, "cni-bin-dir", "", "the container runtime's folder of CNI plugins")
	f.StringVar(&o.withoutAnnotations, "without-annotations", plugin.WithoutAnnotationsPass,
		"pods whose annotations the container runtime does not hand over: pass (an injected one ends by itself) or refuse")
	f.StringVar(&o.cfg.CRI, "cri", "", "the container runtime's socket: ask it whose a process is")
	f.StringVar(&o.cfg.DaemonSet, "daemonset", "", "the agent's own, NAMESPACE/NAME: when it is deleted, the node's CNI chain is as it was")
	f.StringVar(&o.admin, "admin", "", "address to serve /live and /ready at")
	f.StringVar(&o.level, "log-level", "info", "debug, info, warn or error")
	return c
}

func (o *agentFlags) config() (agent.Config, error) {
	cfg := o.cfg
	for _, n := range o.networks {
		p, err := netip.ParsePrefix(n)
		if err != nil {
			return cfg, fmt.Errorf("--networks %q: want CIDRs such as 10.244.0.0/16", n)
		}
		cfg.Networks = append(cfg.Networks, p)
	}
	var err error
	if cfg.Log, err = logger(o.level); err != nil {
		return cfg, err
	}
	exe, err := os.Executable()
	if err != nil {
		return cfg, fmt.Errorf("find this program: %w", err)
	}
	cfg.Version = version.String()
	cfg.KeeperCommand = []string{exe, "keeper", "--log-level", o.level}
	if err := o.chain(&cfg, exe); err != nil {
		return cfg, err
	}
	if cfg.DaemonSet != "" {
		if cfg.API, err = agent.InCluster(); err != nil {
			return cfg, fmt.Errorf("--daemonset: %w", err)
		}
	}
	if o.admin != "" {
		if cfg.Admin, err = net.Listen("tcp", o.admin); err != nil {
			return cfg, fmt.Errorf("--admin %q: %w", o.admin, err)
		}
	}
	return cfg, nil
}

// chain is the installation, if it was asked for. The keeper is then started
// from the copy on the node, as it has to outlive the agent's container.
func (o *agentFlags) chain(cfg *agent.Config, exe string) error {
	if o.netDir == "" && o.binDir == "" {
		return nil
	}
	if !filepath.IsAbs(o.netDir) || !filepath.IsAbs(o.binDir) {
		return errors.New("--cni-net-dir and --cni-bin-dir: want absolute paths, both")
	}
	if a := o.withoutAnnotations; a != plugin.WithoutAnnotationsPass && a != plugin.WithoutAnnotationsRefuse {
		return fmt.Errorf("--without-annotations %q: want pass or refuse", a)
	}
	entry := plugin.Entry{WithoutAnnotations: o.withoutAnnotations, Journal: filepath.Join(o.netDir, install.JournalName)}
	if cfg.Dir != plugin.DefaultStateDir {
		entry.StateDir = cfg.Dir
	}
	raw, err := entry.JSON()
	if err != nil {
		return fmt.Errorf("render the plugin's entry: %w", err)
	}
	cfg.Chain = &install.Config{
		NetDir: o.netDir, BinDir: o.binDir, Program: exe, Type: plugin.Type, Entry: raw,
		Known: plugin.Versions().SupportedVersions(), StateDir: cfg.Dir, Log: cfg.Log,
	}
	cfg.KeeperCommand = []string{exe, "keeper", "--log-level", o.level, "--on-node", filepath.Join(o.binDir, plugin.Type)}
	return nil
}

func keeperCommand() *cobra.Command {
	var level, onNode string
	c := &cobra.Command{
		Use:    "keeper SOCKET",
		Short:  "Hold descriptors over the agent's restarts (started by the agent)",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			log, err := logger(level)
			if err != nil {
				return err
			}
			if !filepath.IsAbs(args[0]) {
				return fmt.Errorf("socket %q: want an absolute path", args[0])
			}
			if onNode != "" {
				return keeper.OnNode(onNode, "keeper", "--log-level", level, args[0])
			}
			if err := keeper.Detach(); err != nil {
				return err
			}
			if err := keeper.SetNoFile(); err != nil {
				return err
			}
			return keeper.NewServer(log).Run(cmd.Context(), args[0])
		},
	}
	c.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	c.Flags().StringVar(&onNode, "on-node", "", "leave the container, and run this program of the node instead")
	return c
}
