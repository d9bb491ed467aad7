package measure

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/tunmesh/tunmesh/bench/peer"
	"github.com/tunmesh/tunmesh/bench/proc"
)

// profile starts perf on both halves of a pair, if it is asked for and this is
// the first round; the returned function ends it and writes what it found beside
// the data.
func (b *Bench) profile(w Workload, p *peer.Peer, round int) (end func() error) {
	var all []*recording
	if b.Options.Profile != "" && round == 0 && slices.Contains(b.Options.Profiled, p.Name) {
		for _, s := range p.Pair {
			all = append(all, record(filepath.Join(b.Options.Profile, w.Name+"-"+p.Name+"-"+s.Side), s.PID()))
		}
	}
	return func() error {
		var errs []error
		for _, r := range all {
			errs = append(errs, r.end())
		}
		for _, r := range all {
			if errors.Join(errs...) == nil {
				errs = append(errs, r.write())
				b.Say("profile: %s.txt, or perf report -i %s.perf.data", r.name, r.name)
			}
		}
		return errors.Join(errs...)
	}
}

// recording is a perf that runs.
type recording struct {
	name  string
	cmd   *exec.Cmd
	words bytes.Buffer
	err   error
}

func record(name string, pid int) *recording {
	var pids []string
	for _, pid := range proc.Tree(pid) {
		pids = append(pids, strconv.Itoa(pid))
	}
	r := &recording{name: name, cmd: exec.Command("perf", "record", "--quiet", "-F", "997", "-g", "-o", name+".perf.data", "-p", strings.Join(pids, ","))}
	r.cmd.Stderr = &r.words
	r.err = r.cmd.Start()
	return r
}

func (r *recording) end() error {
	if r.err != nil {
		return fmt.Errorf("profile with perf (apt-get install linux-perf): %w", r.err)
	}
	_ = r.cmd.Process.Signal(syscall.SIGINT) // it writes its data then
	var killed *exec.ExitError
	if err := r.cmd.Wait(); err != nil && !errors.As(err, &killed) {
		return fmt.Errorf("profile with perf: %w: %s", err, r.words.Bytes())
	}
	return nil
}

// write writes the profile as text: what was on the CPU, the most first.
func (r *recording) write() error {
	out, err := exec.Command("perf", "report", "--stdio", "--no-children", "-g", "none", "--percent-limit", "0.3",
		"--sort", "dso,symbol", "-i", r.name+".perf.data").Output()
	if err != nil {
		return fmt.Errorf("read the profile %s.perf.data: %w: %s", r.name, err, r.words.Bytes())
	}
	return os.WriteFile(r.name+".txt", out, 0o644)
}
