// Command kubernetes is etcd, the control plane, kubelet, kube-proxy and kubectl in
// one program, for the clusters of test/cluster. The first argument, or the
// name it is called by, says which. It owns nothing but that choice: all code
// is upstream's, unpatched.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics, as upstream's programs have
	_ "k8s.io/component-base/metrics/prometheus/version"  // kubernetes_build_info
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	kubeproxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// names of what is in here, in the order in which a cluster starts them.
func names() []string {
	return []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"}
}

func main() {
	args := os.Args
	args[0] = filepath.Base(args[0])
	if !slices.Contains(names(), args[0]) && len(args) > 1 {
		args = args[1:]
	}
	if args[0] == "etcd" {
		etcdmain.Main(args)
		return
	}
	cmd := command(args[0])
	if cmd == nil {
		fmt.Fprintln(os.Stderr, "name one of", strings.Join(names(), ", "), "as first argument")
		os.Exit(2)
	}
	os.Args = args // kubectl looks for plugins there
	os.Exit(cli.Run(cmd))
}

func command(name string) *cobra.Command {
	switch name {
	case "kube-apiserver":
		return apiserver.NewAPIServerCommand()
	case "kube-controller-manager":
		return controllermanager.NewControllerManagerCommand()
	case "kube-scheduler":
		return scheduler.NewSchedulerCommand()
	case "kubelet":
		return made(kubelet.NewKubeletCommand)
	case "kube-proxy":
		return kubeproxy.NewProxyCommand()
	case "kubectl":
		return kubectl.NewDefaultKubectlCommand()
	}
	return nil
}

// made calls what makes a command: releases before 1.33 give it no context.
func made(by any) *cobra.Command {
	switch by := by.(type) {
	case func() *cobra.Command:
		return by()
	case func(context.Context) *cobra.Command:
		return by(context.Background())
	}
	return nil
}
