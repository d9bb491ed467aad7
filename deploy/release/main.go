// Command release makes what a release has: meshctl for each system, the chart, the
// images' names with their digests, the install script and the sums of it all. The
// same commit and version give the same bytes. It owns that list, and the script.
//
//	go run ./deploy/release -o bin/release -version v1.2.3
package main

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/deploy/commit"
)

const module = "github.com/tunmesh/tunmesh"

//go:embed install.sh
var installScript []byte

// system is what a meshctl is built for.
type system struct{ os, arch string }

func systems() []system {
	return []system{{"linux", "amd64"}, {"linux", "arm64"}, {"darwin", "amd64"}, {"darwin", "arm64"}}
}

// config says what is made, and by what.
type config struct {
	out, version string
	created      time.Time
	say          io.Writer
	// meshctl builds it for a system; images builds the images and says
	// NAME:VERSION@DIGEST of each, a line each.
	meshctl func(ctx context.Context, s system, version, to string) error
	images  func(ctx context.Context, version string) (string, error)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "release:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, say io.Writer) error {
	fs := flag.NewFlagSet("release", flag.ContinueOnError)
	cfg := config{say: say, meshctl: compile}
	fs.StringVar(&cfg.out, "o", "bin/release", "folder that is filled, and cleared before")
	fs.StringVar(&cfg.version, "version", "", "the release, as v1.2.3")
	tarballs := fs.String("images", "bin/images", "folder for the images' tarballs")
	push := fs.String("push", "", "write the images to this registry and path, too")
	if err := fs.Parse(args); err != nil {
		return err
	}
	cfg.images = func(ctx context.Context, version string) (string, error) {
		return images(ctx, version, *tarballs, *push)
	}
	var err error
	if cfg.created, err = commit.Time(ctx); err != nil {
		return err
	}
	return cfg.make(ctx)
}

// isRelease matches versions that a release can have: the chart's has to be one of
// semantic versioning.
func isRelease(version string) bool {
	return regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$`).MatchString(version)
}

func (c config) make(ctx context.Context) error {
	if !isRelease(c.version) {
		return fmt.Errorf("version %q is no release's: name one, as in make release VERSION=v1.2.3", c.version)
	}
	if err := errors.Join(os.RemoveAll(c.out), os.MkdirAll(c.out, 0o755)); err != nil {
		return fmt.Errorf("clear the folder: %w", err)
	}
	for _, s := range systems() {
		name := fmt.Sprintf("meshctl-%s-%s-%s", c.version, s.os, s.arch)
		if err := c.meshctl(ctx, s, c.version, filepath.Join(c.out, name)); err != nil {
			return err
		}
	}
	chart, err := packChart(c.version, c.created)
	if err != nil {
		return err
	}
	names, err := c.images(ctx, c.version)
	if err != nil {
		return err
	}
	script := strings.ReplaceAll(string(installScript), "@VERSION@", c.version)
	for name, text := range map[string]string{
		"tunmesh-" + strings.TrimPrefix(c.version, "v") + ".tgz": string(chart), "images.txt": names, "install.sh": script,
	} {
		if err := os.WriteFile(filepath.Join(c.out, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := writeSums(c.out); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.say, "release %s is in %s\n", c.version, c.out)
	return err
}

// compile builds meshctl, with nothing in it of the folder or of the machine.
func compile(ctx context.Context, s system, version, to string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X "+module+"/internal/version.number="+version, "-o", to, module+"/cmd/meshctl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+s.os, "GOARCH="+s.arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build meshctl for %s/%s: %w: %s", s.os, s.arch, err, out)
	}
	return nil
}

// images has the images built by the program that does, and returns their names.
func images(ctx context.Context, version, out, push string) (string, error) {
	args := []string{"run", module + "/deploy/images", "-o", out, "-version", version}
	if push != "" {
		args = append(args, "-push", push)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stderr = os.Stderr
	said, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("build the images: %w", err)
	}
	return imageNames(string(said)), nil
}

// imageNames are the names with digests in what deploy/images says.
func imageNames(said string) string {
	var names strings.Builder
	for line := range strings.Lines(said) {
		if name, _, ok := strings.Cut(line, "  "); ok && strings.Contains(name, "@sha256:") {
			names.WriteString(name + "\n")
		}
	}
	return names.String()
}

// sumsFile has the sum of every other file of a release, as sha256sum writes it.
const sumsFile = "SHA256SUMS"

func writeSums(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sum up the release: %w", err)
	}
	var lines []string
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return fmt.Errorf("sum up the release: %w", err)
		}
		lines = append(lines, fmt.Sprintf("%x  %s\n", sha256.Sum256(text), e.Name()))
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[64:], b[64:]) })
	return os.WriteFile(filepath.Join(dir, sumsFile), []byte(strings.Join(lines, "")), 0o644)
}
