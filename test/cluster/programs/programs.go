// Package programs builds what a cluster consists of from Go modules: Kubernetes
// with etcd and kubectl as one program, containerd, runc, CoreDNS, CNI plugins,
// and the harness's own. It owns the versions and the cache of what was
// built; it refuses to know how a cluster is started.
//
// A program of others is kept in the user's cache folder under a key of all
// that goes into it: module and version, Go's version, flags, and the files
// of ../modules. What this repository's code goes into is built by go, whose
// own cache knows when that is needed.
package programs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Module is this project's path.
const Module = "github.com/tunmesh/tunmesh"

// Set is where the programs are.
type Set struct {
	Release    string // of Kubernetes
	Kubernetes string // etcd, kube-apiserver, …, kubectl: by the first argument
	Containerd string // a folder: containerd, containerd-shim-runc-v2, ctr
	Runc       string
	CoreDNS    string
	CNI        string // a folder: reference plugins
	Own        string // a folder: cluster, testapp, pause
}

// Config says what to build.
type Config struct {
	// Release of Kubernetes, as Release gives it.
	Release string
	// Cache is the folder of what was built; "" is tunmesh/cluster in the
	// user's cache folder.
	Cache string
	// Progress gets a line for each program that has to be built; nil is none.
	Progress func(format string, args ...any)
}

// Build returns a Set, building what the cache lacks. Two that build the same
// at once wait for each other.
func Build(ctx context.Context, cfg Config) (Set, error) {
	b, err := newBuilder(ctx, cfg)
	if err != nil {
		return Set{}, err
	}
	s := Set{Release: cfg.Release}
	for _, step := range []struct {
		to   *string
		what program
	}{
		{&s.Kubernetes, b.kubernetes(cfg.Release)},
		{&s.Containerd, b.containerd()},
		{&s.Runc, b.runc()},
		{&s.CoreDNS, b.coredns()},
		{&s.CNI, b.cni()},
	} {
		if *step.to, err = b.cached(ctx, step.what); err != nil {
			return Set{}, err
		}
	}
	s.Own, err = b.own(ctx)
	return s, err
}

// program is one entry of the cache.
type program struct {
	name  string   // of the entry, and of the file in it unless dir
	title string   // for people: name and version
	dir   bool     // the entry's folder is what counts, not a file in it
	key   []string // all that goes into it
	need  func() error
	build func(ctx context.Context, to string) error
}

type builder struct {
	cache    string
	root     string // of the repository
	goBin    string
	progress func(string, ...any)
}

func newBuilder(ctx context.Context, cfg Config) (*builder, error) {
	b := &builder{cache: cfg.Cache, progress: cfg.Progress}
	if b.progress == nil {
		b.progress = func(string, ...any) {}
	}
	if b.cache == "" {
		c, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("find a folder for the cluster's programs: %w", err)
		}
		b.cache = filepath.Join(c, "tunmesh", "cluster")
	}
	var err error
	if b.goBin, err = exec.LookPath("go"); err != nil {
		return nil, errors.New("go is missing: install Go 1.26 or newer (https://go.dev/dl)")
	}
	out, err := b.run(ctx, "", nil, "list", "-m", "-f", "{{.Dir}}", Module)
	if err != nil {
		return nil, fmt.Errorf("find this project's folder: %w", err)
	}
	b.root = strings.TrimSpace(out)
	return b, os.MkdirAll(b.cache, 0o755)
}

// cached returns the path of a program, built before or now.
func (b *builder) cached(ctx context.Context, p program) (string, error) {
	entry := filepath.Join(b.cache, p.name+"-"+digest(append(p.key, runtime.Version(), runtime.GOARCH)))
	path := entry
	if !p.dir {
		path = filepath.Join(entry, p.name)
	}
	if exists(path) {
		now := time.Now()
		return path, os.Chtimes(entry, now, now) // in use: see expire
	}
	unlock, err := lock(ctx, entry+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(path) { // somebody else built it while we waited
		return path, nil
	}
	if p.need != nil {
		if err := p.need(); err != nil {
			return "", err
		}
	}
	b.progress("building %s (once: it is kept in %s)", p.title, b.cache)
	began := time.Now()
	tmp, err := os.MkdirTemp(b.cache, p.name+".tmp-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp) // gone already where it was renamed
	if err := p.build(ctx, tmp); err != nil {
		return "", fmt.Errorf("build %s: %w", p.title, err)
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, entry); err != nil {
		return "", err
	}
	if err := b.expire(p.name); err != nil {
		return "", err
	}
	b.progress("built %s in %s", p.title, time.Since(began).Round(time.Second))
	return path, nil
}

// unused is how long an entry stays that nobody asks for.
const unused = 30 * 24 * time.Hour

// expire removes a program's entries that were not asked for in a long time:
// each version takes up to 150 MB.
func (b *builder) expire(name string) error {
	entries, err := filepath.Glob(filepath.Join(b.cache, name+"-*"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		fi, err := os.Stat(e)
		if err != nil || !fi.IsDir() || time.Since(fi.ModTime()) < unused {
			continue
		}
		if err := os.RemoveAll(e); err != nil {
			return fmt.Errorf("remove an old program: %w", err)
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func digest(parts []string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// lockPoll is how often a lock that somebody else has is tried.
const lockPoll = 200 * time.Millisecond

// lock waits for a file's lock; the kernel gives it back when its holder dies.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for another build of %s: %w", filepath.Base(path), context.Cause(ctx))
		}
	}
}

// run runs go in a folder and returns what it printed.
func (b *builder) run(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, b.goBin, args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "GOWORK=off"), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, last(&errs, 4000))
	}
	return out.String(), nil
}

// last is the end of a text: the beginning of a long list of errors is mostly
// downloads.
func last(r io.Reader, n int) string {
	raw, _ := io.ReadAll(r)
	if len(raw) > n {
		raw = append([]byte("… "), raw[len(raw)-n:]...)
	}
	return strings.TrimSpace(string(raw))
}
