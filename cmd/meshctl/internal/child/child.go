// Package child keeps programs of the node running: it starts them, starts them
// again when they end, and asks them to end when it is time. It also reaps what
// is left to pid 1. It refuses to know what the programs do.
package child

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// firstWait and maxWait are before a start that follows a failure.
	firstWait = 50 * time.Millisecond
	maxWait   = 5 * time.Second
	// settled is how long a program must run for the wait to begin anew.
	settled = 10 * time.Second
	// stopTime is how long a program may take to end after SIGTERM.
	stopTime = 5 * time.Second
)

// Program is one program to keep running.
type Program struct {
	Name string
	Argv []string
	Env  []string
	Out  io.Writer // stdout and stderr
	Log  *slog.Logger

	mu  sync.Mutex
	pid int
}

// PID of the running process, 0 between two.
func (p *Program) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

// Run keeps the program running until ctx ends, and returns when it has ended.
func (p *Program) Run(ctx context.Context) {
	wait := time.Duration(0)
	for ctx.Err() == nil {
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		began := time.Now()
		err := p.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= settled {
			wait = 0
		}
		p.Log.Warn("a program ended and is started again", "program", p.Name, "error", err, "wait", wait)
		wait = min(max(2*wait, firstWait), maxWait)
	}
}

func (p *Program) once(ctx context.Context) error {
	c := exec.CommandContext(ctx, p.Argv[0], p.Argv[1:]...)
	c.Env, c.Stdout, c.Stderr = p.Env, p.Out, p.Out
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = stopTime
	// Its own session: a signal of a terminal is for the one who holds it.
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		return err
	}
	p.mu.Lock()
	p.pid = c.Process.Pid
	p.mu.Unlock()
	err := c.Wait()
	p.mu.Lock()
	p.pid = 0
	p.mu.Unlock()
	return err
}

// reapPeriod is how often pid 1 looks for processes that were left to it.
const reapPeriod = 5 * time.Second

// Reap reaps, as pid 1 must, processes whose parents ended before them. Those
// that somebody here waits for are reaped at once by them, so only what was a
// zombie for a whole period is touched.
func Reap(ctx context.Context) {
	seen := map[int]bool{}
	tick := time.NewTicker(reapPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := zombies()
		for pid := range now {
			if seen[pid] {
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
				delete(now, pid)
			}
		}
		seen = now
	}
}

// zombies lists the dead children of pid 1.
func zombies() map[int]bool {
	out := map[int]bool{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		// pid (name) state ppid …; the name may hold anything, also ")".
		rest := string(raw[strings.LastIndexByte(string(raw), ')')+1:])
		field := strings.Fields(rest)
		if len(field) > 1 && field[0] == "Z" && field[1] == "1" {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil {
				out[pid] = true
			}
		}
	}
	return out
}

// Find looks for a program beside another.
func Find(dir, name string) (string, error) {
	p := filepath.Join(dir, name)
	fi, err := os.Stat(p)
	if err != nil {
		return "", errors.New(name + " is not beside meshctl in " + dir + ": build it (make build)")
	}
	if fi.IsDir() || fi.Mode()&0o111 == 0 {
		return "", errors.New(p + " is not an executable file")
	}
	return p, nil
}
