package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/deploy/image"
	"github.com/tunmesh/tunmesh/test/cluster/internal/apiclient"
	"github.com/tunmesh/tunmesh/test/cluster/internal/fabric"
	"github.com/tunmesh/tunmesh/test/cluster/internal/hold"
	"github.com/tunmesh/tunmesh/test/cluster/internal/layout"
	"github.com/tunmesh/tunmesh/test/cluster/internal/node"
	"github.com/tunmesh/tunmesh/test/cluster/internal/supervise"
	"github.com/tunmesh/tunmesh/test/cluster/programs"
)

// Images that every node has.
const (
	// TestImage is the program testapp, a server and small tools: see its command.
	TestImage    = "docker.io/tunmesh-test/testapp:v1"
	corednsImage = "docker.io/tunmesh-test/coredns:v1"
)

// Up boots a cluster and returns when its nodes and its DNS are ready. It ends
// with Down, or with the calling process.
func Up(ctx context.Context, o Options) (c *Cluster, err error) {
	if err := o.normalize(); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("a cluster needs root, for namespaces, mounts and cgroups")
	}
	began := time.Now()
	if o.Programs == nil {
		set, err := programs.Build(ctx, programs.Config{Release: o.Version, Progress: o.Progress})
		if err != nil {
			return nil, err
		}
		o.Programs = &set
	}
	c = &Cluster{began: time.Now(), progress: o.Progress}
	c.step("programs are there (%s)", time.Since(began).Round(100*time.Millisecond))
	lock, err := c.prepare(o)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // hold has it, too
	if err := c.launch(lock); err != nil {
		return nil, errors.Join(err, hold.Remove(c.layout, true))
	}
	if err := c.boot(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("boot a cluster: %w", err), c.Down(ctx, true))
	}
	return c, nil
}

func (c *Cluster) step(format string, args ...any) {
	c.progress("%6.1f s  %s", time.Since(c.began).Seconds(), fmt.Sprintf(format, args...))
}

// prepare makes the cluster's folder.
func (c *Cluster) prepare(o Options) (lock *os.File, err error) {
	dir, err := os.MkdirTemp("", hold.Prefix)
	if err != nil {
		return nil, err
	}
	c.layout = layout.Cluster{
		Dir: dir, Programs: *o.Programs, Nodes: o.Nodes, DualStack: o.DualStack, FeatureGates: o.gates(),
		Group: filepath.Base(dir), Verbosity: o.verbosity(),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if lock, err = hold.Claim(dir); err != nil {
		return nil, err
	}
	// Others than root on the machine may not come near the keys, but pods see
	// what is mounted for them.
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return nil, err
	}
	if fs.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return nil, fmt.Errorf("%s is on an overlay file system, which can't hold containers' layers: set TMPDIR to a folder on a disk or a tmpfs", dir)
	}
	if longest := c.layout.Node(layout.MaxNodes).Containerd(); len(longest) >= len(unix.RawSockaddrUnix{}.Path) {
		return nil, fmt.Errorf("%s is too long for a socket: set TMPDIR to a shorter path", longest)
	}
	for _, d := range []string{c.layout.Logs(), filepath.Join(dir, "bin"), filepath.Join(dir, "images")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, err
		}
	}
	for _, n := range c.layout.AllNodes() {
		if err := os.Mkdir(n.Dir(), 0o755); err != nil {
			return nil, err
		}
	}
	// The program knows by its name what it is asked to be.
	if err := os.Symlink(o.Programs.Kubernetes, filepath.Join(dir, "bin", "kubectl")); err != nil {
		return nil, err
	}
	if err := c.images(o); err != nil {
		return nil, err
	}
	return lock, c.layout.Save()
}

// images makes those that the harness needs itself.
func (c *Cluster) images(o Options) error {
	for _, i := range []struct{ name, path, program string }{
		{node.PauseImage, "/pause", filepath.Join(o.Programs.Own, "pause")},
		{corednsImage, "/coredns", o.Programs.CoreDNS},
		{TestImage, "/testapp", filepath.Join(o.Programs.Own, "testapp")},
	} {
		index, err := image.Build(image.Spec{Programs: map[string]string{arch(): i.program}, Path: i.path})
		if err != nil {
			return err
		}
		file := filepath.Join(c.layout.Dir, "images", filepath.Base(i.path)+".tar")
		if err := image.WriteTarball(file, i.name, index); err != nil {
			return err
		}
		c.layout.Images = append(c.layout.Images, file)
	}
	for _, tar := range o.Images {
		abs, err := filepath.Abs(tar)
		if err != nil {
			return err
		}
		if _, err := os.Stat(abs); err != nil {
			return fmt.Errorf("an image's tarball is missing: %w", err)
		}
		c.layout.Images = append(c.layout.Images, abs)
	}
	return nil
}

// launch starts hold, which lives as long as the pipe to it is open.
func (c *Cluster) launch(lock *os.File) error {
	log, err := os.Create(c.layout.Log("hold"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(c.layout.Self(), "hold", c.layout.Dir)
	cmd.Stderr, cmd.ExtraFiles = log, []*os.File{lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a terminal's signals are for the owner
	if c.word, err = cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the cluster's holder: %w", err)
	}
	c.hold = cmd
	c.reports = make(chan fabric.Report, 16) // more than a cluster reports
	c.ended = make(chan struct{})
	go c.follow(out)
	return nil
}

// follow reads what hold reports until it ends, and owns the end of both
// channels.
func (c *Cluster) follow(out io.Reader) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var r fabric.Report
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue
		}
		if r.Err != "" {
			c.why.Store(&r.Err)
		}
		select {
		case c.reports <- r:
		default: // nobody reads any more
		}
	}
	_ = c.hold.Wait() // why it ended is in its last report
	close(c.ended)
}

// failure is what ended the cluster.
func (c *Cluster) failure() error {
	if s := c.why.Load(); s != nil {
		return errors.New(*s)
	}
	return errors.New("the cluster's holder ended: see " + c.layout.Log("hold"))
}

func (c *Cluster) boot(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, layout.BootTime, fmt.Errorf("it took more than %s", layout.BootTime))
	defer cancel()
	for ready := false; !ready; {
		select {
		case r := <-c.reports:
			if r.Err != "" {
				return errors.New(r.Err)
			}
			if r.Step != "" {
				c.step("%s", r.Step)
			}
			ready = r.Ready
		case <-c.ended:
			return c.failure()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	server, err := c.server()
	if err != nil {
		return err
	}
	if c.api, err = apiclient.New(c.layout, server); err != nil {
		return err
	}
	if err := c.await(ctx, "the default ServiceAccount", func(ctx context.Context) error {
		return c.api.Get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
	}); err != nil {
		return err
	}
	if _, err := c.Run(ctx, strings.NewReader(corednsManifest(c.layout)), "apply", "-f", "-"); err != nil {
		return err
	}
	if err := c.await(ctx, "all nodes Ready", c.nodesReady); err != nil {
		return err
	}
	return c.await(ctx, "CoreDNS ready", c.dnsReady)
}

// server is where the API server is reached from here.
func (c *Cluster) server() (string, error) {
	var kc struct {
		Clusters []struct{ Cluster struct{ Server string } }
	}
	raw, err := os.ReadFile(c.layout.Kubeconfig())
	if err == nil {
		err = json.Unmarshal(raw, &kc)
	}
	if err != nil || len(kc.Clusters) == 0 {
		return "", fmt.Errorf("read the cluster's kubeconfig: %w", err)
	}
	return strings.TrimPrefix(kc.Clusters[0].Cluster.Server, "https://"), nil
}

// bootPoll is how often a step of the boot is looked at.
const bootPoll = 50 * time.Millisecond

// await repeats a question until it has no error. A process that does not come
// up ends it at once.
func (c *Cluster) await(ctx context.Context, what string, ask func(context.Context) error) error {
	for {
		err := ask(ctx)
		if err == nil {
			c.step("%s", what)
			return nil
		}
		if berr := c.broken(ctx); berr != nil {
			return fmt.Errorf("wait for %s: %w", what, berr)
		}
		select {
		case <-time.After(bootPoll):
		case <-c.ended:
			return c.failure()
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w", what, context.Cause(ctx), err)
		}
	}
}

// broken says which process doesn't come up.
func (c *Cluster) broken(ctx context.Context) error {
	clients := []supervise.Client{{Path: c.layout.Control()}}
	for _, n := range c.layout.AllNodes() {
		clients = append(clients, supervise.Client{Path: n.Control()})
	}
	for _, cl := range clients {
		all, err := cl.Statuses(ctx)
		if err != nil {
			continue // not there yet
		}
		for _, s := range all {
			if err := s.Broken(); err != nil {
				return err
			}
		}
	}
	return nil
}

type conditions []struct{ Type, Status, Reason, Message string }

func (cs conditions) hold(what string) error {
	for _, c := range cs {
		if c.Type == what {
			if c.Status == "True" {
				return nil
			}
			return fmt.Errorf("%s is %s: %s: %s", what, c.Status, c.Reason, c.Message)
		}
	}
	return fmt.Errorf("%s is not known", what)
}

func (c *Cluster) nodesReady(ctx context.Context) error {
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct{ Conditions conditions }
		}
	}
	if err := c.api.Get(ctx, "/api/v1/nodes", &list); err != nil {
		return err
	}
	if len(list.Items) < c.layout.Nodes {
		return fmt.Errorf("%d of %d nodes have told of themselves", len(list.Items), c.layout.Nodes)
	}
	for _, n := range list.Items {
		if err := n.Status.Conditions.hold("Ready"); err != nil {
			return fmt.Errorf("%s: %w", n.Metadata.Name, err)
		}
	}
	return nil
}

func (c *Cluster) dnsReady(ctx context.Context) error {
	var d struct {
		Status struct{ Conditions conditions }
	}
	if err := c.api.Get(ctx, "/apis/apps/v1/namespaces/kube-system/deployments/coredns", &d); err != nil {
		return err
	}
	return d.Status.Conditions.hold("Available")
}

// Dial connects to an address of the cluster's network: a pod, a node, not a
// Service, which only nodes and pods know. It serves "tcp" and "udp" and needs
// an IP address: names are for those inside.
func (c *Cluster) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	pid, err := supervise.Client{Path: c.layout.Control()}.PID(ctx)
	if err != nil {
		return nil, err
	}
	return dialIn(ctx, pid, network, addr)
}
