// Package proc runs the processes of a measurement and accounts their CPU. It
// knows nothing of what they do.
package proc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/nettest"
)

// Tick is the unit of the kernel's CPU accounting.
const Tick = 10 * time.Millisecond

// Process is one that runs in a network namespace.
type Process struct {
	cmd    *exec.Cmd
	words  tail
	output io.ReadCloser
}

// tail keeps what a process said last.
type tail struct {
	mu sync.Mutex
	b  []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-4096):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}

// Spec says what to run.
type Spec struct {
	Path string
	Args []string
	// Space is the network namespace; nil is this process's own.
	Space *nettest.Space
	// FDs are its descriptors 3, 4, …, borrowed.
	FDs []int
	// UID and group of the process; 0 is this process's own.
	UID uint32
	// Env is added to this process's environment.
	Env []string
	// Silent: nobody reads its standard output; the last of it is kept with that
	// of its standard error.
	Silent bool
}

// Start runs path in s, or in this process's namespace when s is nil, with the
// descriptors as its 3, 4, ….
func Start(s *nettest.Space, fds []int, path string, args ...string) (*Process, error) {
	return Run(Spec{Path: path, Args: args, Space: s, FDs: fds})
}

// Run starts a process.
func Run(s Spec) (*Process, error) {
	p := &Process{cmd: exec.Command(s.Path, s.Args...)}
	p.cmd.Stderr = &p.words
	p.cmd.Env = append(os.Environ(), s.Env...)
	p.cmd.WaitDelay = 2 * time.Second // for a pipe that a descendant holds
	// A group of its own: Ctrl-C at the terminal is the harness's to handle.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if s.UID != 0 {
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: s.UID, Gid: s.UID}
	}
	for _, fd := range s.FDs {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("duplicate a descriptor for %s: %w", s.Path, err)
		}
		f := os.NewFile(uintptr(dup), "queue")
		defer f.Close()
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, f)
	}
	var err error
	if s.Silent {
		p.cmd.Stdout = &p.words
	} else if p.output, err = p.cmd.StdoutPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Path, err)
	}
	if s.Space != nil {
		err = s.Space.Do(p.cmd.Start)
	} else {
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Path, err)
	}
	return p, nil
}

// Says is what the process wrote last.
func (p *Process) Says() string { return p.words.String() }

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// Stopped reports whether no thread of a process runs: it was sent SIGSTOP, and has
// noticed, or has ended.
func Stopped(pid int) bool {
	all, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, path := range all {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		_, rest, _ := strings.Cut(string(raw), ") ")
		if !strings.HasPrefix(rest, "T") && !strings.HasPrefix(rest, "Z") {
			return false
		}
	}
	return true
}

// Output is the process's standard output.
func (p *Process) Output() io.Reader { return p.output }

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Wait waits for the end and returns the CPU the process used.
func (p *Process) Wait() (time.Duration, error) {
	if err := p.cmd.Wait(); err != nil {
		return 0, fmt.Errorf("%s %s: %w: %s", filepath.Base(p.cmd.Path), strings.Join(p.cmd.Args[1:], " "), err, p.Says())
	}
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime(), nil
}

// Stop ends the process and what it started: its whole group.
func (p *Process) Stop() {
	_ = unix.Kill(-p.PID(), unix.SIGKILL) // gone already is as good
	if p.output != nil {
		_, _ = io.Copy(io.Discard, p.output)
	}
	_ = p.cmd.Wait()
}

// Tree is a process with all that descend from it, those alive now.
func Tree(root int) []int {
	pids := []int{root}
	for i := 0; i < len(pids); i++ {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pids[i], pids[i]))
		if err != nil {
			continue
		}
		for f := range strings.FieldsSeq(string(raw)) {
			if pid, err := strconv.Atoi(f); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// CPU is what a process has used so far, all its threads.
func CPU(pid int) time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// Fields are counted after the name, which may hold anything.
	_, rest, _ := strings.Cut(string(raw), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	return ticks(f[11]) + ticks(f[12])
}

func ticks(s string) time.Duration {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(n) * Tick
}

// Machine is the busy time of all CPUs so far.
func Machine() (time.Duration, error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read machine CPU: %w", err)
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	f := strings.Fields(line)
	if len(f) < 8 {
		return 0, errors.New("read machine CPU: /proc/stat has no cpu line")
	}
	var busy time.Duration
	for i, v := range f[1:8] { // user nice system idle iowait irq softirq
		if i != 3 && i != 4 {
			busy += ticks(v)
		}
	}
	return busy, nil
}

// Stolen is the time that a hypervisor has given to others so far while this
// machine wanted to run; 0 where it does not say.
func Stolen() time.Duration {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	f := strings.Fields(line)
	if len(f) < 9 {
		return 0
	}
	return ticks(f[8])
}

// SoftIRQ are the kernel's threads that finish network work for everybody.
func SoftIRQ() (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, path := range all {
		if raw, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(raw), "ksoftirqd/") {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// RSS is a process's resident memory and the part of it that no file backs, in bytes.
func RSS(pid int) (resident, anonymous int64) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			resident = n << 10
		case "RssAnon:":
			anonymous = n << 10
		}
	}
	return resident, anonymous
}

// Pin puts every thread of a process on these CPUs; those it makes later follow.
func Pin(pid int, cpus ...int) error {
	var set unix.CPUSet
	for _, c := range cpus {
		set.Set(c)
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return fmt.Errorf("pin process %d: %w", pid, err)
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := unix.SchedSetaffinity(tid, &set); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("pin thread %d: %w", tid, err)
		}
	}
	return nil
}
