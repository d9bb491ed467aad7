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

// profile starts perf on a pair, if it is asked for and this is the first
// round; the returned function ends it and writes what it found beside the data.
func (b *Bench) profile(w Workload, p *peer.Peer, round int) (end func() error) {
	if b.Options.Profile == "" || round > 0 || !slices.Contains(b.Options.Profiled, p.Name) || len(p.Pair) == 0 {
		return func() error { return nil }
	}
	var pids []string
	for _, s := range p.Pair {
		for _, pid := range proc.Tree(s.PID()) {
			pids = append(pids, strconv.Itoa(pid))
		}
	}
	data := filepath.Join(b.Options.Profile, w.Name+"-"+p.Name+".perf.data")
	cmd := exec.Command("perf", "record", "--quiet", "-F", "997", "-g", "-o", data, "-p", strings.Join(pids, ","))
	var words bytes.Buffer
	cmd.Stderr = &words
	if err := cmd.Start(); err != nil {
		return func() error { return fmt.Errorf("profile with perf (apt-get install linux-perf): %w", err) }
	}
	return func() error {
		_ = cmd.Process.Signal(syscall.SIGINT) // it writes its data then
		var killed *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &killed) {
			return fmt.Errorf("profile with perf: %w: %s", err, words.Bytes())
		}
		out, err := exec.Command("perf", "report", "--stdio", "--no-children", "-g", "none", "--percent-limit", "0.3",
			"--sort", "pid,dso,symbol", "-i", data).Output()
		if err != nil {
			return fmt.Errorf("read the profile %s: %w: %s", data, err, words.Bytes())
		}
		text := strings.TrimSuffix(data, ".perf.data") + ".txt"
		b.Say("profile: %s, and perf report -i %s", text, data)
		return os.WriteFile(text, out, 0o644)
	}
}
