// Command cluster builds and runs the project's Kubernetes clusters for tests.
//
//	cluster build [-kubernetes 1.34]   builds what the cache lacks, and says where it is
//	cluster up [flags]                 a cluster for a person, until Ctrl-C
//
// The harness itself starts it as hold, fabric and node: see internal/hold.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/test/cluster"
	"github.com/tunmesh/tunmesh/test/cluster/internal/fabric"
	"github.com/tunmesh/tunmesh/test/cluster/internal/hold"
	"github.com/tunmesh/tunmesh/test/cluster/internal/node"
	"github.com/tunmesh/tunmesh/test/cluster/programs"
)

func main() {
	args := append(os.Args[1:], "", "", "")
	switch args[0] {
	case "hold":
		os.Exit(hold.Main(args[1]))
	case "fabric":
		os.Exit(fabric.Main(args[1]))
	case "node":
		n, err := strconv.Atoi(args[2])
		if err != nil {
			fmt.Fprintln(os.Stderr, "cluster node: which?")
			os.Exit(2)
		}
		os.Exit(node.Main(args[1], n))
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	var err error
	switch args[0] {
	case "build":
		err = build(ctx, os.Args[2:])
	case "up":
		err = up(ctx, os.Args[2:])
	default:
		err = errors.New("say build or up; -h after it lists its flags")
	}
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		stop()
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func version(fs *flag.FlagSet) *string {
	all := programs.Kubernetes()
	return fs.String("kubernetes", "", fmt.Sprintf("version of Kubernetes, %s to %s (default %s)", programs.Minor(all[len(all)-1]), programs.Minor(all[0]), all[0]))
}

func build(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("cluster build", flag.ContinueOnError)
	v := version(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	release, err := programs.Release(*v)
	if err != nil {
		return err
	}
	began := time.Now()
	set, err := programs.Build(ctx, programs.Config{Release: release, Progress: say})
	if err != nil {
		return err
	}
	say("ready in %s", time.Since(began).Round(100*time.Millisecond))
	for _, p := range []string{set.Kubernetes, set.Containerd, set.Runc, set.CoreDNS, set.CNI, set.Own} {
		fmt.Println(p)
	}
	return nil
}

// runScript runs a script as a person would in another terminal.
func runScript(ctx context.Context, c *cluster.Cluster, script string) error {
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", script)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr // what is printed afterwards is for people to copy
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig(), "PATH="+c.Bin()+":"+os.Getenv("PATH"), "KUBECACHEDIR="+filepath.Join(filepath.Dir(c.Kubeconfig()), "kubectl-cache"))
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s: %w", script, err)
	}
	return nil
}

func up(ctx context.Context, args []string) (err error) {
	fs := flag.NewFlagSet("cluster up", flag.ContinueOnError)
	var o cluster.Options
	v := version(fs)
	fs.IntVar(&o.Nodes, "nodes", 1, "number of nodes, 1 to 3")
	fs.BoolVar(&o.DualStack, "dual-stack", false, "IPv6 beside IPv4")
	fs.BoolVar(&o.Verbose, "v", false, "details in the logs")
	fs.Func("image", "tarball of an image for every node; may be repeated", func(s string) error { o.Images = append(o.Images, s); return nil })
	script := fs.String("run", "", "shell script to run in the cluster when it is up, with kubectl and KUBECONFIG set")
	if err := fs.Parse(args); err != nil {
		return err
	}
	o.Version, o.Progress = *v, say
	c, err := cluster.Up(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Down(ctx, err != nil)) }()
	if *script != "" {
		if err := runScript(ctx, c, *script); err != nil {
			return err
		}
	}
	fmt.Printf(`
Kubernetes %s runs. In another terminal:

  export KUBECONFIG=%s PATH=%s:$PATH
  kubectl get pods -A -o wide

Logs of its processes are in %s.
Ctrl-C ends it and removes everything.
`, c.Version(), c.Kubeconfig(), c.Bin(), c.Logs())
	select {
	case <-ctx.Done():
		say("removing the cluster")
		return nil
	case <-c.Ended():
		return errors.New("the cluster ended by itself")
	}
}
