package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/installation"
	"github.com/tunmesh/tunmesh/control/inject"
	"github.com/tunmesh/tunmesh/internal/version"
)

func (a *app) injectCommand() *cobra.Command {
	var (
		output         string
		image          string
		manual, ignore bool
	)
	c := &cobra.Command{
		Use:   "inject FILE|DIR|-",
		Short: "Have the workloads of a manifest get a sidecar",
		Long: `Reads Kubernetes manifests from a file, a folder (*.yaml, *.yml, *.json) or
standard input, and prints them with the annotation tunmesh.io/inject: enabled on
each workload's pods: the injector of the cluster adds the sidecar to them.

With --manual, and with --local, the sidecar is added right here: a native sidecar
container with a restricted security context, a projected token volume, and the
annotation tunmesh.io/injected; nothing else.

A workload with tunmesh.io/inject: disabled is left alone, and so is one that
can't be meshed; the report on standard error says why.`,
		Example: `  kubectl get deploy -o yaml | meshctl inject - | kubectl apply -f -
  meshctl inject app.yaml | kubectl apply -f -
  meshctl inject --manual app.yaml | kubectl apply -f -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg := inject.Config{Version: version.String(), Image: image}
			local := cmd.Flags().Changed("local") || a.env("TUNMESH_LOCAL") != ""
			if image != "" && !manual && !local {
				return usage("--proxy-image is for --manual: the injector of a cluster has its own, and the annotation config.tunmesh.io/proxy-image names another")
			}
			if output != "yaml" && output != "json" {
				return usage("--output %q: want yaml or json", output)
			}
			f := inject.Annotate
			if manual || local {
				f = inject.Manifests
			}
			if manual && !local && !ignore {
				there, err := a.installed(cmd.Context())
				if err != nil {
					return fmt.Errorf("%w; --ignore-cluster takes this program's own version", err)
				}
				cfg.Version, cfg.Defaults = there.Version, there.Defaults
				if cfg.Image == "" {
					cfg.Image = there.ProxyImage
				}
			}
			return transform(cmd, args[0], output, "injected", func(in []byte) ([]byte, []inject.Report, error) { return f(in, cfg) })
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "yaml", "yaml or json")
	c.Flags().StringVar(&image, "proxy-image", "", "with --manual: the sidecar's image, without tag")
	c.Flags().BoolVar(&manual, "manual", false, "add the sidecar here, and not in the cluster")
	c.Flags().BoolVar(&ignore, "ignore-cluster", false, "with --manual: do not ask the cluster for the sidecar's version")
	return c
}

// installed says what is installed in the cluster that the flags name.
func (a *app) installed(ctx context.Context) (*installation.Installed, error) {
	c, err := a.cluster()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, clusterWithin)
	defer cancel()
	return installation.Find(ctx, c.kube)
}

func (a *app) uninjectCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "uninject FILE|DIR|-",
		Short: "Have the workloads of a manifest get no sidecar any more",
		Long: `Reads Kubernetes manifests as inject does, and prints them without the sidecars, or
the annotation that asks for one: of workloads, and of namespaces, whose pods have
to be made again then (kubectl rollout restart).`,
		Example: `  kubectl get deploy -o yaml | meshctl uninject - | kubectl apply -f -
  kubectl get ns,deploy,sts,ds,cronjob -A -o yaml | meshctl uninject - | kubectl apply -f -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return transform(cmd, args[0], output, "uninjected", inject.Unmanifests)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "yaml", "yaml or json")
	return c
}

// transform runs f over everything at path and prints result and report.
func transform(cmd *cobra.Command, path, output, done string, f func([]byte) ([]byte, []inject.Report, error)) error {
	if output != "yaml" && output != "json" {
		return usage("--output %q: want yaml or json", output)
	}
	inputs, err := readManifests(cmd.InOrStdin(), path)
	if err != nil {
		return err
	}
	var (
		out     bytes.Buffer
		reports []inject.Report
	)
	for _, in := range inputs {
		text, r, err := f(in.text)
		if err != nil {
			return fmt.Errorf("%s: %w", in.name, err)
		}
		if out.Len() > 0 {
			out.WriteString("---\n")
		}
		out.Write(text)
		if out.Len() > 0 && out.Bytes()[out.Len()-1] != '\n' {
			out.WriteByte('\n')
		}
		reports = append(reports, r...)
	}
	text := out.Bytes()
	if output == "json" {
		if text, err = toJSON(text); err != nil {
			return err
		}
	}
	if _, err := cmd.OutOrStdout().Write(text); err != nil {
		return err
	}
	report(cmd.ErrOrStderr(), reports, done)
	return nil
}

// toJSON prints each document on its own, one after the other.
func toJSON(text []byte) ([]byte, error) {
	var out bytes.Buffer
	for doc := range strings.SplitSeq("\n"+string(text), "\n---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		j, err := yaml.YAMLToJSON([]byte(doc))
		if err != nil {
			return nil, fmt.Errorf("convert to JSON: %w", err)
		}
		if string(j) != "null" {
			out.Write(j)
			out.WriteByte('\n')
		}
	}
	return out.Bytes(), nil
}

// report says on w what became of each workload: warnings first.
func report(w io.Writer, reports []inject.Report, done string) {
	if len(reports) == 0 {
		fmt.Fprintln(w, "‼ no supported objects found")
		return
	}
	fmt.Fprintln(w)
	warned := false
	for _, r := range reports {
		if text := skipText(r); text != "" {
			fmt.Fprintln(w, "‼", text)
			warned = true
		}
	}
	if warned {
		fmt.Fprintln(w)
	}
	for _, r := range reports {
		if r.Done {
			fmt.Fprintf(w, "%s %q %s\n", r.Kind, r.Name, done)
		} else {
			fmt.Fprintf(w, "%s %q skipped (%s)\n", r.Kind, r.Name, r.Reason)
		}
	}
	fmt.Fprintln(w)
}

func skipText(r inject.Report) string {
	name := r.Kind + "/" + r.Name
	switch r.Reason {
	case inject.HostNetwork:
		return `"hostNetwork: true" detected in ` + name
	case inject.ShareProcess:
		return `"shareProcessNamespace: true" detected in ` + name + ": its containers could reach into the sidecar"
	case inject.SidecarExists:
		return "the sidecar is already in " + name
	case inject.ForeignSidecar:
		return "a linkerd-proxy container is in " + name + ": uninject it first"
	case inject.ReservedPort:
		return name + " uses port 4191, which is the sidecar's own"
	case inject.DisablePresent:
		return `"tunmesh.io/inject: disabled" annotation set on ` + name
	case inject.InvalidAtWorkload, inject.InvalidAtNamespace:
		return "the tunmesh.io/inject annotation of " + name + " or its namespace is neither enabled nor disabled"
	case inject.InvalidAnnotation:
		return name + ": " + r.Detail
	}
	return ""
}

type source struct {
	name string
	text []byte
}

// readManifests reads "-" from stdin, a file, or a folder's files by name.
func readManifests(stdin io.Reader, path string) ([]source, error) {
	if path == "-" {
		text, err := io.ReadAll(stdin)
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		return []source{{"standard input", text}}, nil
	}
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	files := []string{path}
	if fi.IsDir() {
		files = nil
		err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(p)) {
				files = append(files, p)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read folder %s: %w", path, err)
		}
		if len(files) == 0 {
			return nil, errors.New(path + ": no *.yaml, *.yml or *.json file in this folder")
		}
	}
	var out []source
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		out = append(out, source{f, text})
	}
	return out, nil
}
