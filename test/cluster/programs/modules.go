package programs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// noDWARF spares the compiler what the linker would strip (-s -w): a quarter of the
// time that the programs of others take.
const noDWARF = "-gcflags=all=-dwarf=false"

// static are the environment and flags of programs of others without C in them.
func static() (env, flags []string) {
	return []string{"CGO_ENABLED=0"}, []string{"-trimpath", "-buildvcs=false", noDWARF, "-ldflags=-s -w"}
}

// folder reads the files of a module of ../modules: they are part of its key. mod is
// "go" for go.mod and go.sum, or what others are named by.
func (b *builder) folder(name, mod string) (dir string, text []string) {
	dir = filepath.Join(b.root, "test/cluster/modules", name)
	for _, f := range []string{"main.go", mod + ".mod", mod + ".sum"} {
		raw, _ := os.ReadFile(filepath.Join(dir, f)) // the build says what is missing
		text = append(text, string(raw))
	}
	return dir, text
}

// kubernetes builds the module of ../modules/kubernetes. Its go.mod is that of the
// default release; the oldest has its own beside it, named by the release, so that
// sums in this repository vouch for both ends of the range. For another one, a go.mod
// is made in the same way in the cache: what Kubernetes replaces by folders of its
// repository is published under the version 0.minor.patch.
func (b *builder) kubernetes(release string) program {
	mod := "go"
	if release != Kubernetes()[0] {
		mod = release
	}
	dir, text := b.folder("kubernetes", mod)
	ld := "-s -w"
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		minor := strings.TrimPrefix(Minor(release), "1.")
		for _, v := range []string{"gitVersion=v" + release, "gitMajor=1", "gitMinor=" + minor, "gitTreeState=archive", "buildDate=1970-01-01T00:00:00Z"} {
			ld += " -X " + pkg + "." + v
		}
	}
	return program{
		name: "kubernetes", title: "Kubernetes " + release, key: append(text, release, ld, noDWARF),
		build: func(ctx context.Context, to string) error {
			args := []string{"build", "-trimpath", "-buildvcs=false", noDWARF, "-ldflags=" + ld, "-o", filepath.Join(to, "kubernetes")}
			switch {
			case mod == "go":
			case text[1] != "":
				args = append(args, "-modfile="+filepath.Join(dir, mod+".mod"))
			default:
				made := filepath.Join(to, "go.mod")
				if err := b.modfile(ctx, release, made); err != nil {
					return err
				}
				args = append(args, "-mod=mod", "-modfile="+made)
			}
			_, err := b.run(ctx, dir, []string{"CGO_ENABLED=0"}, append(args, ".")...)
			return err
		},
	}
}

// modfile writes the go.mod of our main package for a release.
func (b *builder) modfile(ctx context.Context, release, to string) error {
	out, err := b.run(ctx, b.cache, []string{"GOFLAGS=-mod=mod"}, "mod", "download", "-json", "k8s.io/kubernetes@v"+release)
	if err != nil {
		return err
	}
	var got struct{ GoMod string }
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		return fmt.Errorf("read what go mod download says: %w", err)
	}
	theirs, err := os.ReadFile(got.GoMod)
	if err != nil {
		return err
	}
	text, err := gomod(string(theirs), release)
	if err != nil {
		return err
	}
	return os.WriteFile(to, []byte(text), 0o644)
}

// gomod derives our go.mod from Kubernetes' own.
func gomod(theirs, release string) (string, error) {
	var out strings.Builder
	fmt.Fprintf(&out, "module %s/test/cluster/modules/kubernetes\n\n", Module)
	for _, l := range strings.Split(theirs, "\n") {
		if strings.HasPrefix(l, "go ") || strings.HasPrefix(l, "godebug ") {
			out.WriteString(l + "\n")
		}
	}
	fmt.Fprintf(&out, "\nrequire k8s.io/kubernetes v%s\n\n", release)
	staging := regexp.MustCompile(`(?m)^\s*(?:replace )?(k8s\.io/[a-z-]+) => \./staging/`).FindAllStringSubmatch(theirs, -1)
	if len(staging) == 0 {
		return "", fmt.Errorf("the go.mod of Kubernetes %s replaces nothing by its staging folder: it is arranged in another way than those known", release)
	}
	for _, m := range staging {
		fmt.Fprintf(&out, "replace %s => %s v0%s\n", m[1], m[1], strings.TrimPrefix(release, "1"))
	}
	return out.String(), nil
}

func (b *builder) coredns() program {
	dir, text := b.folder("coredns", "go")
	env, flags := static()
	return program{
		name: "coredns", title: "CoreDNS", key: append(text, flags...),
		build: func(ctx context.Context, to string) error {
			_, err := b.run(ctx, dir, env, append(append([]string{"build"}, flags...), "-o", filepath.Join(to, "coredns"), ".")...)
			return err
		},
	}
}

// containerd leaves out the snapshotters that need libraries or devices.
func (b *builder) containerd() program {
	const module = "github.com/containerd/containerd/v2"
	env, flags := static()
	flags = append(flags, "-tags=no_btrfs,no_zfs,no_devmapper,no_aufs")
	return program{
		name: "containerd", title: "containerd " + containerdVersion, dir: true, key: append(flags, containerdVersion),
		build: func(ctx context.Context, to string) error {
			args := append([]string{"install"}, flags...)
			for _, cmd := range []string{"containerd", "containerd-shim-runc-v2", "ctr"} {
				args = append(args, module+"/cmd/"+cmd+"@"+containerdVersion)
			}
			_, err := b.run(ctx, b.cache, append(env, "GOBIN="+to, "GOFLAGS="), args...)
			return err
		},
	}
}

// runc needs C: it enters namespaces before Go's runtime starts, and seccomp
// filters are made by libseccomp.
func (b *builder) runc() program {
	const module = "github.com/opencontainers/runc"
	flags := []string{"-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-tags=seccomp,urfave_cli_no_docs"}
	return program{
		name: "runc", title: "runc " + runcVersion, key: append(flags, runcVersion),
		need: func() error {
			if exec.Command("pkg-config", "--exists", "libseccomp").Run() != nil {
				return errors.New("runc needs libseccomp's headers and a C compiler: apt-get install libseccomp-dev pkg-config gcc libc6-dev")
			}
			return nil
		},
		build: func(ctx context.Context, to string) error {
			_, err := b.run(ctx, b.cache, []string{"CGO_ENABLED=1", "GOBIN=" + to, "GOFLAGS="}, append(append([]string{"install"}, flags...), module+"@"+runcVersion)...)
			return err
		},
	}
}

// cni builds the reference plugins, which are tools of this project's go.mod.
func (b *builder) cni() program {
	const plugins = "github.com/containernetworking/plugins"
	env, flags := static()
	mod, _ := os.ReadFile(filepath.Join(b.root, "go.mod"))
	version := regexp.MustCompile(regexp.QuoteMeta(plugins) + ` v\S+`).FindString(string(mod))
	return program{
		name: "cni", title: version, dir: true, key: append(flags, version),
		build: func(ctx context.Context, to string) error {
			args := append([]string{"build"}, flags...)
			args = append(args, "-o", to+"/")
			for _, p := range []string{"main/bridge", "main/ptp", "main/loopback", "ipam/host-local", "meta/portmap"} {
				args = append(args, plugins+"/plugins/"+p)
			}
			_, err := b.run(ctx, b.root, env, args...)
			return err
		},
	}
}

// own builds the harness's own programs.
func (b *builder) own(ctx context.Context) (string, error) {
	dir := filepath.Join(b.cache, "own-"+digest([]string{b.root}))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	// As this project's programs are built, so that what those have in common is compiled once.
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", dir + "/"}
	for _, p := range []string{"cmd/cluster", "testapp", "pause"} {
		args = append(args, Module+"/test/cluster/"+p)
	}
	if _, err := b.run(ctx, b.root, []string{"CGO_ENABLED=0"}, args...); err != nil {
		return "", fmt.Errorf("build the harness: %w", err)
	}
	return dir, nil
}
