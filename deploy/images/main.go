// Command images builds the project's container images: programs for each
// architecture, images of them as tarballs, a bill of materials beside each,
// and, with -push, all of it in a registry. No daemon and no base image is
// involved. It owns the list of images.
//
//	go run ./deploy/images -o bin/images
//	go run ./deploy/images -o bin/images -push registry.example.com/tunmesh
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/deploy/commit"
	"github.com/tunmesh/tunmesh/deploy/image"
)

const module = "github.com/tunmesh/tunmesh"

// product is a program that has an image.
type product struct {
	name, title, user string
}

// products lists them. The node's program needs root; the others need nothing.
func products() []product {
	return []product{
		{"mesh-proxy", "The sidecar", "2102:2102"},
		{"mesh-control", "The control plane", "2103:2103"},
		{"mesh-cni", "The CNI plugin and the node's agent", ""},
		{"emojivoto", "The sample application", "65534:65534"},
	}
}

type config struct {
	out, version, repository, push string
	archs                          []string
	compress                       bool
	created                        time.Time
	say                            io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "images:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, say io.Writer) error {
	fs := flag.NewFlagSet("images", flag.ContinueOnError)
	cfg := config{say: say}
	fs.StringVar(&cfg.out, "o", "bin/images", "folder for tarballs and bills of materials")
	fs.StringVar(&cfg.version, "version", "latest", "the images' tag, and the version of the programs")
	fs.StringVar(&cfg.repository, "repository", "ghcr.io/tunmesh", "what the images' names begin with")
	fs.StringVar(&cfg.push, "push", "", "write the images to this registry and path, too (as registry.example.com/tunmesh)")
	fs.BoolVar(&cfg.compress, "compress", true, "compress layers; what stays on one machine is faster without")
	archs := fs.String("arch", "amd64,arm64", "architectures")
	if err := fs.Parse(args); err != nil {
		return err
	}
	cfg.archs = strings.Split(*archs, ",")
	var err error
	if cfg.created, err = commit.Time(ctx); err != nil {
		return err
	}
	return cfg.make(ctx)
}

func (c config) make(ctx context.Context) error {
	if err := os.MkdirAll(c.out, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "images-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // copies of what the images have
	for _, arch := range c.archs {
		if err := c.compile(ctx, arch, filepath.Join(tmp, arch)); err != nil {
			return err
		}
	}
	for _, p := range products() {
		if err := c.product(ctx, p, tmp); err != nil {
			return err
		}
	}
	return nil
}

// compile builds all programs for an architecture, with nothing in them of the
// folder or of the machine.
func (c config) compile(ctx context.Context, arch, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	ld := "-s -w -X " + module + "/internal/version.number=" + c.version
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags", ld, "-o", to + "/"}
	for _, p := range products() {
		args = append(args, module+"/cmd/"+p.name)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs for %s: %w: %s", arch, err, out)
	}
	return nil
}

func (c config) product(ctx context.Context, p product, programs string) error {
	spec := image.Spec{
		Programs: map[string]string{}, Path: "/usr/local/bin/" + p.name, User: p.user, Compress: c.compress, Created: c.created, Labels: c.labels(p),
	}
	sboms := map[string][]byte{}
	for _, arch := range c.archs {
		program := filepath.Join(programs, arch, p.name)
		spec.Programs[arch] = program
		sbom, err := image.SBOM(program, c.version, c.created)
		if err != nil {
			return err
		}
		sboms[arch] = sbom
		if err := os.WriteFile(filepath.Join(c.out, p.name+"-"+arch+".spdx.json"), append(sbom, '\n'), 0o644); err != nil {
			return err
		}
	}
	index, err := image.Build(spec)
	if err != nil {
		return err
	}
	name := c.repository + "/" + p.name + ":" + c.version
	if err := image.WriteTarball(filepath.Join(c.out, p.name+".tar"), name, index); err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Fprintf(c.say, "%s@%s  %s\n", name, digest, filepath.Join(c.out, p.name+".tar"))
	if c.push == "" {
		return nil
	}
	ref := strings.TrimSuffix(c.push, "/") + "/" + p.name + ":" + c.version
	if err := image.Push(ctx, ref, index, sboms); err != nil {
		return err
	}
	fmt.Fprintf(c.say, "pushed %s\n", ref)
	return nil
}

func (c config) labels(p product) map[string]string {
	const o = "org.opencontainers.image."
	return map[string]string{
		o + "title": p.name, o + "description": p.title + " of tunmesh", o + "version": c.version,
		o + "source": "https://" + module, o + "licenses": "Apache-2.0", o + "created": c.created.UTC().Format(time.RFC3339),
	}
}
