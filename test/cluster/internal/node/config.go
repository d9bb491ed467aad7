package node

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tunmesh/tunmesh/test/cluster/internal/layout"
)

type object = map[string]any

// PauseImage is what holds a pod's namespaces; the harness makes it itself.
const PauseImage = "registry.k8s.io/pause:3.10"

// configure writes what the node's programs read. The CNI folder is only filled
// once: afterwards it is the cluster's, as on a real node.
func (n *node) configure() error {
	files := map[string]any{n.file("kubelet.json"): n.kubelet(), n.file("kube-proxy.json"): n.kubeProxy()}
	conf := "/etc/cni/net.d/10-cluster.conflist"
	if _, err := os.Stat(n.file("images-are-imported")); err != nil { // the first boot
		files[conf] = conflist(n.Node)
		if err := copyPlugins(n.Cluster.Programs.CNI); err != nil {
			return err
		}
	}
	for path, v := range files {
		raw, err := json.MarshalIndent(v, "", "  ")
		if err == nil {
			err = os.WriteFile(path, append(raw, '\n'), 0o644)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	dns := "nameserver " + n.Cluster.DNS().String() + "\n"
	if err := os.WriteFile(n.file("resolv.conf"), []byte(dns), 0o644); err != nil {
		return err
	}
	return os.WriteFile(n.file("containerd.toml"), []byte(containerd(n.Cluster.Programs.Runc)), 0o644)
}

// copyPlugins copies: an installer may put its own in their place.
func copyPlugins(from string) error {
	names, err := os.ReadDir(from)
	if err != nil {
		return fmt.Errorf("find the CNI plugins: %w", err)
	}
	for _, f := range names {
		raw, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join("/opt/cni/bin", f.Name()), raw, 0o755)
		}
		if err != nil {
			return fmt.Errorf("copy the CNI plugin %s: %w", f.Name(), err)
		}
	}
	return nil
}

func conflist(n layout.Node) object {
	var ranges [][]object
	var routes []object
	for _, p := range n.Pods() {
		ranges = append(ranges, []object{{"subnet": p.String()}})
		all := "0.0.0.0/0"
		if p.Addr().Is6() {
			all = "::/0"
		}
		routes = append(routes, object{"dst": all})
	}
	return object{
		"cniVersion": "1.0.0", "name": "cluster", "disableCheck": true, // what is chained after the bridge may move its interface
		"plugins": []object{
			{
				"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
				"ipam": object{"type": "host-local", "ranges": ranges, "routes": routes},
			},
			{"type": "portmap", "backend": "nftables", "capabilities": object{"portMappings": true}},
		},
	}
}

func (n *node) kubelet() object {
	return object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"address": "0.0.0.0",
		"authentication": object{
			"anonymous": object{"enabled": false}, "webhook": object{"enabled": true}, "x509": object{"clientCAFile": n.Cluster.PKI("ca.crt")},
		},
		"authorization": object{"mode": "Webhook"},
		"tlsCertFile":   n.Cluster.PKI(n.Name() + "-serving.crt"), "tlsPrivateKeyFile": n.Cluster.PKI(n.Name() + "-serving.key"),
		"containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
		"cgroupDriver":             "cgroupfs", "cgroupRoot": "/" + n.Group(), "cgroupsPerQOS": true, "enforceNodeAllocatable": []string{},
		"failCgroupV1": false, "failSwapOn": false,
		"oomScoreAdj": 0, // less than 0 needs CAP_SYS_RESOURCE, which root in a container may lack
		"kubeAPIQPS":  200, "kubeAPIBurst": 400,
		"clusterDNS": []string{n.Cluster.DNS().String()}, "clusterDomain": "cluster.local", "resolvConf": n.file("resolv.conf"),
		"evictionHard":                object{"memory.available": "50Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%"},
		"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99, // no registry has them
		"maxOpenFiles": 20000,
		"featureGates": n.Cluster.FeatureGates,
	}
}

func (n *node) kubeProxy() object {
	return object{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
		"mode": "nftables", "hostnameOverride": n.Name(), "clusterCIDR": layout.Join(n.Cluster.Pods()),
		"clientConnection": object{"kubeconfig": n.Cluster.PKI("proxy.kubeconfig")},
		// Zeros leave the machine's settings alone.
		"conntrack":    object{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
		"featureGates": n.Cluster.FeatureGates,
	}
}

// containerd is the runtime's configuration. Lowering oom_score_adj needs
// CAP_SYS_RESOURCE: without restrict_oom_score_adj no pod starts where root
// lacks it.
func containerd(runc string) string {
	return `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs", "io.containerd.differ.v1.erofs", "io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "` + PauseImage + `"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "` + runc + `"
`
}
