//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/kubelet"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/rotate"
)

func (a *app) localLogsCommand() *cobra.Command {
	var namespace, container string
	var follow bool
	c := &cobra.Command{
		Use:   "logs POD|TYPE/NAME [-c CONTAINER]",
		Short: "Print what a container wrote, over its restarts (the last one or two MiB)",
		Example: `  sudo meshctl local logs deploy/web -n shop
  sudo meshctl local logs deploy/web -c mesh-proxy -f`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.needRoot(); err != nil {
				return err
			}
			dir, err := a.mesh()
			if err != nil {
				return err
			}
			p, err := findPod(dir, namespace, args[0])
			if err != nil {
				return err
			}
			if container == "" && len(p.Spec.Containers) > 0 {
				container = p.Spec.Containers[0].Name
			}
			if !hasContainer(p, container) {
				return fmt.Errorf("pod %s has no container %q; it has %s", p.Name, container, strings.Join(containerNames(p), ", "))
			}
			return tailLog(cmd.Context(), a.out, filepath.Join(dir.Logs(), kubelet.LogFolder(p), container+".log"), follow)
		},
	}
	c.Flags().StringVarP(&namespace, "namespace", "n", "", "the pod's namespace (default: any)")
	c.Flags().StringVarP(&container, "container", "c", "", "the container (default: the first)")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on as it writes more, until it is gone or Ctrl-C")
	return c
}

func containerNames(p *corev1.Pod) []string {
	var out []string
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		out = append(out, c.Name)
	}
	return out
}

func hasContainer(p *corev1.Pod, name string) bool { return slices.Contains(containerNames(p), name) }

// tailLog prints a log, the full file before it first, and follows it through
// rotations.
func tailLog(ctx context.Context, out io.Writer, path string, follow bool) error {
	if old, err := os.Open(path + rotate.Old); err == nil {
		_, err = io.Copy(out, old)
		if err := errors.Join(err, old.Close()); err != nil {
			return err
		}
	}
	f, err := os.Open(path)
	for errors.Is(err, fs.ErrNotExist) && follow && ctx.Err() == nil {
		if _, gone := os.Stat(filepath.Dir(filepath.Dir(path))); gone != nil {
			return nil // the mesh ended
		}
		time.Sleep(50 * time.Millisecond)
		f, err = os.Open(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has written nothing
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for {
		if _, err := io.Copy(out, f); err != nil {
			return err
		}
		if !follow || ctx.Err() != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
		now, err := os.Stat(path)
		if err != nil {
			return nil // the pod is gone
		}
		if was, err := f.Stat(); err == nil && !os.SameFile(was, now) {
			if _, err := io.Copy(out, f); err != nil {
				return err
			}
			next, err := os.Open(path)
			if err != nil {
				return nil
			}
			_ = f.Close()
			f = next
		}
	}
}
