package fabric

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunmesh/tunmesh/test/cluster/internal/layout"
)

func (f *fabric) etcd() []string {
	return []string{
		"--data-dir=" + filepath.Join(f.Dir, "etcd", "data"),
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=default=http://127.0.0.1:2380",
		"--unsafe-no-fsync", // the cluster does not outlive the machine's memory
	}
}

func (f *fabric) apiserver() []string {
	return append(f.gates(),
		"--advertise-address="+f.Addresses()[0].Addr().String(), fmt.Sprintf("--secure-port=%d", layout.APIPort),
		"--etcd-servers=http://127.0.0.1:2379", "--allow-privileged=true",
		"--service-cluster-ip-range="+layout.Join(f.Services()),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--client-ca-file="+f.PKI("ca.crt"), "--tls-cert-file="+f.PKI("apiserver.crt"), "--tls-private-key-file="+f.PKI("apiserver.key"),
		"--kubelet-client-certificate="+f.PKI("apiserver-kubelet.crt"), "--kubelet-client-key="+f.PKI("apiserver-kubelet.key"),
		"--kubelet-certificate-authority="+f.PKI("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+f.PKI("sa.pub"), "--service-account-signing-key-file="+f.PKI("sa.key"),
		"--requestheader-client-ca-file="+f.PKI("front-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+f.PKI("front.crt"), "--proxy-client-key-file="+f.PKI("front.key"),
		"--enable-aggregator-routing=true", // there is no kube-proxy here: webhooks are called at their pods
	)
}

func (f *fabric) controllerManager() []string {
	kc := f.PKI("controller-manager.kubeconfig")
	return append(f.gates(),
		"--kubeconfig="+kc, "--authentication-kubeconfig="+kc, "--authorization-kubeconfig="+kc,
		"--root-ca-file="+f.PKI("ca.crt"), "--service-account-private-key-file="+f.PKI("sa.key"), "--use-service-account-credentials=true",
		"--cluster-signing-cert-file="+f.PKI("ca.crt"), "--cluster-signing-key-file="+f.PKI("ca.key"),
		"--cluster-cidr="+layout.Join(f.Pods()), "--allocate-node-cidrs=false", "--service-cluster-ip-range="+layout.Join(f.Services()),
		"--leader-elect=false", "--bind-address=127.0.0.1",
		"--node-monitor-grace-period=3m",              // a busy machine may stand still for a while, and its nodes with it
		"--kube-api-qps=500", "--kube-api-burst=1000", // by default the first ServiceAccount comes seconds late
	)
}

func (f *fabric) scheduler() []string {
	kc := f.PKI("scheduler.kubeconfig")
	return append(f.gates(),
		"--kubeconfig="+kc, "--authentication-kubeconfig="+kc, "--authorization-kubeconfig="+kc,
		"--leader-elect=false", "--bind-address=127.0.0.1", "--kube-api-qps=500", "--kube-api-burst=1000",
	)
}

// gates are the flags that all of Kubernetes' programs take.
func (f *fabric) gates() []string {
	out := []string{fmt.Sprintf("-v=%d", f.Verbosity)}
	var gates []string
	for _, g := range slices.Sorted(maps.Keys(f.FeatureGates)) {
		gates = append(gates, fmt.Sprintf("%s=%t", g, f.FeatureGates[g]))
	}
	if len(gates) > 0 {
		out = append(out, "--feature-gates="+strings.Join(gates, ","))
	}
	return out
}
