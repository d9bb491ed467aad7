package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tunmesh/tunmesh/internal/version"
)

// clusterWithin bounds what a command asks a cluster, unless it waits for something.
const clusterWithin = time.Minute

// cluster is the Kubernetes cluster that the flags name.
type cluster struct {
	kube    kubernetes.Interface
	dynamic dynamic.Interface
	server  string // its address, for people
}

// kubeFlags are kubectl's global flags.
func kubeFlags() *genericclioptions.ConfigFlags {
	return genericclioptions.NewConfigFlags(true)
}

// addKubeFlags adds kubectl's global flags. Those that few type are not listed by
// --help.
func addKubeFlags(fs *pflag.FlagSet, k *genericclioptions.ConfigFlags) {
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	k.AddFlags(own)
	shown := []string{"kubeconfig", "context", "namespace", "as", "as-group"}
	own.VisitAll(func(f *pflag.Flag) { f.Hidden = !slices.Contains(shown, f.Name) })
	fs.AddFlagSet(own)
}

// restConfig is how the API server is asked of the cluster that the flags name, or
// kubectl's configuration.
func (a *app) restConfig() (*rest.Config, error) {
	cfg, err := a.kube.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w", err)
	}
	cfg = rest.CopyConfig(cfg)
	cfg.UserAgent = "meshctl/" + version.String()
	cfg.QPS, cfg.Burst = 50, 100 // one person's commands: a dozen lists, and then nothing
	return cfg, nil
}

// cluster connects to the cluster that the flags name, or kubectl's configuration.
func (a *app) cluster() (*cluster, error) {
	if a.fake != nil {
		return a.fake, nil
	}
	cfg, err := a.restConfig()
	if err != nil {
		return nil, err
	}
	c := &cluster{server: cfg.Host}
	if c.kube, err = kubernetes.NewForConfig(cfg); err != nil {
		return nil, fmt.Errorf("connect to the cluster: %w", err)
	}
	if c.dynamic, err = dynamic.NewForConfig(cfg); err != nil {
		return nil, fmt.Errorf("connect to the cluster: %w", err)
	}
	return c, nil
}

// namespace is what the flags or kubectl's context say.
func (a *app) namespace() (string, error) {
	if a.fake != nil {
		if n := *a.kube.Namespace; n != "" {
			return n, nil
		}
		return "default", nil
	}
	n, _, err := a.kube.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return "", fmt.Errorf("find the namespace: %w", err)
	}
	return n, nil
}
