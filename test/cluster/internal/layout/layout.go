// Package layout is what a cluster looks like before anything of it runs: its
// folders, addresses and names, as values. It owns every path and address that
// two parts of the harness must agree on, and does no I/O but reading and
// writing its own file.
package layout

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/tunmesh/tunmesh/test/cluster/programs"
)

// MaxNodes is how many nodes a cluster may have: what the addresses and two
// processors bear.
const MaxNodes = 3

// BootTime bounds every step of a boot. A machine on which others measure may
// stand still for minutes.
const BootTime = 10 * time.Minute

// Cluster is one cluster's layout.
type Cluster struct {
	Dir          string // all its files; short, for the sockets in it
	Programs     programs.Set
	Nodes        int
	DualStack    bool
	FeatureGates map[string]bool
	Images       []string // tarballs that every node gets before its kubelet
	Group        string   // cgroup of its pods, below the root; nodes append their names
	Verbosity    int      // of Kubernetes' logs
}

// Load reads a layout that Save wrote.
func Load(dir string) (c Cluster, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, "layout.json"))
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err != nil {
		return c, fmt.Errorf("read the cluster's layout: %w", err)
	}
	return c, nil
}

// Save writes the layout into its folder.
func (c Cluster) Save() error {
	raw, err := json.MarshalIndent(c, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(c.Dir, "layout.json"), raw, 0o644)
	}
	if err != nil {
		return fmt.Errorf("write the cluster's layout: %w", err)
	}
	return nil
}

// Logs is the folder of all logs.
func (c Cluster) Logs() string { return filepath.Join(c.Dir, "logs") }

// Log is the log of a process.
func (c Cluster) Log(name string) string { return filepath.Join(c.Logs(), name+".log") }

// PKI is a file of keys and certificates.
func (c Cluster) PKI(file string) string { return filepath.Join(c.Dir, "pki", file) }

// Kubeconfig is for use on the machine, outside of the cluster's namespaces.
func (c Cluster) Kubeconfig() string { return filepath.Join(c.Dir, "kubeconfig") }

// Self is the harness's program.
func (c Cluster) Self() string { return filepath.Join(c.Programs.Own, "cluster") }

// Control is the socket at which the cluster's first process takes commands.
func (c Cluster) Control() string { return filepath.Join(c.Dir, "control.sock") }

// Node is the layout of node n, counted from 1.
func (c Cluster) Node(n int) Node { return Node{Cluster: c, Number: n} }

// AllNodes lists the nodes.
func (c Cluster) AllNodes() (nodes []Node) {
	for n := range c.Nodes {
		nodes = append(nodes, c.Node(n+1))
	}
	return nodes
}

// Families returns 4, or 4 and 6.
func (c Cluster) families() []int {
	if c.DualStack {
		return []int{4, 6}
	}
	return []int{4}
}

// Addresses are the control plane's, on the nodes' network; the first is IPv4.
func (c Cluster) Addresses() (out []netip.Prefix) {
	for _, f := range c.families() {
		if f == 4 {
			out = append(out, netip.MustParsePrefix("172.18.0.1/24"))
		} else {
			out = append(out, netip.MustParsePrefix("fd00:172:18::1/64"))
		}
	}
	return out
}

// Pods are the ranges of all pods.
func (c Cluster) Pods() (out []netip.Prefix) {
	for _, f := range c.families() {
		if f == 4 {
			out = append(out, netip.MustParsePrefix("10.244.0.0/16"))
		} else {
			out = append(out, netip.MustParsePrefix("fd00:10:244::/48"))
		}
	}
	return out
}

// Services are the ranges of all Services.
func (c Cluster) Services() (out []netip.Prefix) {
	for _, f := range c.families() {
		if f == 4 {
			out = append(out, netip.MustParsePrefix("10.96.0.0/16"))
		} else {
			out = append(out, netip.MustParsePrefix("fd00:10:96::/112"))
		}
	}
	return out
}

// DNS is the address of the cluster's DNS.
func (c Cluster) DNS() netip.Addr { return netip.MustParseAddr("10.96.0.10") }

// Endpoint is where the API server listens inside.
func (c Cluster) Endpoint() string {
	return netip.AddrPortFrom(c.Addresses()[0].Addr(), APIPort).String()
}

// APIPort is the API server's.
const APIPort = 6443

// Node is one node's layout.
type Node struct {
	Cluster Cluster
	Number  int
}

// Name is the node's, in Kubernetes and as its host name.
func (n Node) Name() string { return "node" + strconv.Itoa(n.Number) }

// Dir is the folder of the node's files.
func (n Node) Dir() string { return filepath.Join(n.Cluster.Dir, n.Name()) }

// Disk is what stands on the machine for a path of the node.
func (n Node) Disk(path string) string { return filepath.Join(n.Dir(), "fs", path) }

// Control is the socket at which the node's first process takes commands.
func (n Node) Control() string { return filepath.Join(n.Dir(), "control.sock") }

// Containerd is containerd's socket, as it is seen from the machine.
func (n Node) Containerd() string { return n.Disk("/run/containerd/containerd.sock") }

// Group is the cgroup of the node's pods.
func (n Node) Group() string { return n.Cluster.Group + "-" + n.Name() }

// Log is the log of a process of the node.
func (n Node) Log(name string) string { return n.Cluster.Log(n.Name() + "-" + name) }

// Addresses are the node's; the first is IPv4.
func (n Node) Addresses() (out []netip.Prefix) {
	for _, p := range n.Cluster.Addresses() {
		a := p.Addr().AsSlice()
		if len(a) == 4 {
			a[3] = byte(10 + n.Number)
		} else {
			a[15] = byte(0x10 + n.Number)
		}
		addr, _ := netip.AddrFromSlice(a) // of 4 or 16 bytes, as it was
		out = append(out, netip.PrefixFrom(addr, p.Bits()))
	}
	return out
}

// Pods are the ranges of the node's pods.
func (n Node) Pods() (out []netip.Prefix) {
	for _, p := range n.Cluster.Pods() {
		a, bits := p.Addr().AsSlice(), 24
		if len(a) == 4 {
			a[2] = byte(n.Number)
		} else {
			a[7], bits = byte(n.Number), 64
		}
		addr, _ := netip.AddrFromSlice(a) // of 4 or 16 bytes, as it was
		out = append(out, netip.PrefixFrom(addr, bits))
	}
	return out
}

// Join writes prefixes or addresses with commas, as flags want them.
func Join[T fmt.Stringer](list []T) (s string) {
	for i, v := range list {
		if i > 0 {
			s += ","
		}
		s += v.String()
	}
	return s
}

// Addrs are the addresses of prefixes.
func Addrs(list []netip.Prefix) (out []netip.Addr) {
	for _, p := range list {
		out = append(out, p.Addr())
	}
	return out
}
