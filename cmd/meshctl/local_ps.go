//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/ctl"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/state"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// psRow is a pod as ps prints it.
type psRow struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Ready     string    `json:"ready"` // "2/2" containers
	Status    string    `json:"status"`
	Restarts  int32     `json:"restarts"`
	Meshed    bool      `json:"meshed"`
	IPs       []string  `json:"ips"`
	Created   time.Time `json:"created"`
}

func (a *app) localPsCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "ps",
		Short: "List the pods of a mesh",
		Example: `  sudo meshctl local ps
  sudo meshctl local ps --name staging -o json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := tableOrJSON(output); err != nil {
				return err
			}
			if err := a.needRoot(); err != nil {
				return err
			}
			dir, err := a.mesh()
			if err != nil {
				return err
			}
			pods, err := readPods(dir)
			if err != nil {
				return err
			}
			rows := make([]psRow, 0, len(pods))
			for _, p := range pods {
				rows = append(rows, rowOf(p))
			}
			if output == "json" {
				e := json.NewEncoder(a.out)
				e.SetIndent("", "  ")
				return e.Encode(rows)
			}
			return a.psTable(rows)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

func (a *app) psTable(rows []psRow) error {
	if len(rows) == 0 {
		fmt.Fprintln(a.err, "No pods.")
		return nil
	}
	w := tabwriter.NewWriter(a.out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "NAMESPACE\tNAME\tREADY\tSTATUS\tRESTARTS\tMESHED\tIP\tAGE")
	for _, r := range rows {
		ip, meshed := "-", "no"
		if len(r.IPs) > 0 {
			ip = r.IPs[0]
		}
		if r.Meshed {
			meshed = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", r.Namespace, r.Name, r.Ready, r.Status, r.Restarts, meshed, ip,
			time.Since(r.Created).Round(time.Second))
	}
	return w.Flush()
}

// readPods reads the pods of a mesh that is up.
func readPods(dir state.Dir) ([]*corev1.Pod, error) {
	if !dir.Held() {
		return nil, fmt.Errorf("the local mesh %q %w: start it with meshctl local up", dir.Name(), ctl.ErrDown)
	}
	names, err := filepath.Glob(filepath.Join(dir.Pods(), "*.json"))
	if err != nil {
		return nil, err
	}
	var out []*corev1.Pod
	for _, n := range names {
		raw, err := os.ReadFile(n)
		if errors.Is(err, fs.ErrNotExist) {
			continue // ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		p := &corev1.Pod{}
		if err := json.Unmarshal(raw, p); err != nil {
			return nil, fmt.Errorf("read %s: %w", n, err)
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *corev1.Pod) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return out, nil
}

// findPod finds a pod by name, or the first of a workload's (deploy/web), in the
// namespace, or, when that is "", anywhere.
func findPod(dir state.Dir, namespace, what string) (*corev1.Pod, error) {
	pods, err := readPods(dir)
	if err != nil {
		return nil, err
	}
	return selectPod(pods, namespace, what)
}

func selectPod(pods []*corev1.Pod, namespace, what string) (*corev1.Pod, error) {
	kind, name, typed := strings.Cut(what, "/")
	if !typed {
		kind, name = "pod", what
	}
	full := kinds()[strings.ToLower(kind)]
	switch full {
	case "pod", "deployment", "statefulset", "daemonset":
	default:
		return nil, usage("%q: want a pod's name, deploy/NAME, sts/NAME or ds/NAME", what)
	}
	var found []*corev1.Pod
	for _, p := range pods {
		if namespace != "" && p.Namespace != namespace {
			continue
		}
		if full == "pod" {
			if p.Name == name {
				found = append(found, p)
			}
			continue
		}
		for _, o := range p.OwnerReferences {
			again := slices.ContainsFunc(found, func(f *corev1.Pod) bool { return f.Namespace == p.Namespace })
			if strings.EqualFold(o.Kind, full) && o.Name == name && !again {
				found = append(found, p)
			}
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("%s is in several namespaces: say which with -n", what)
	case namespace != "":
		return nil, fmt.Errorf("there is no pod %s in namespace %s; meshctl local ps lists them", what, namespace)
	}
	return nil, fmt.Errorf("there is no pod %s; meshctl local ps lists them", what)
}

// rowOf sums a pod up as kubectl does.
func rowOf(p *corev1.Pod) psRow {
	r := psRow{Namespace: p.Namespace, Name: p.Name, Status: string(p.Status.Phase), Created: p.CreationTimestamp.Time,
		Meshed: p.Annotations[annotation.Injected] != "", IPs: []string{}}
	for _, ip := range p.Status.PodIPs {
		r.IPs = append(r.IPs, ip.IP)
	}
	ready, total := 0, 0
	count := func(c corev1.ContainerStatus) {
		total++
		r.Restarts += c.RestartCount
		if c.Ready {
			ready++
		}
	}
	for i, c := range p.Status.InitContainerStatuses {
		if policy := p.Spec.InitContainers[i].RestartPolicy; policy != nil && *policy == corev1.ContainerRestartPolicyAlways {
			count(c)
		}
	}
	for _, c := range p.Status.ContainerStatuses {
		count(c)
	}
	r.Ready = fmt.Sprintf("%d/%d", ready, total)
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		switch {
		case c.State.Waiting != nil:
			r.Status = c.State.Waiting.Reason
		case c.State.Terminated != nil && c.State.Terminated.ExitCode != 0 && p.Status.Phase == corev1.PodRunning:
			r.Status = c.State.Terminated.Reason
		default:
			continue
		}
		break
	}
	if p.DeletionTimestamp != nil {
		r.Status = "Terminating"
	}
	return r
}
