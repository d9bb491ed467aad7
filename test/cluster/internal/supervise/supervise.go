// Package supervise is what the first process of a machine does, and of our
// machines in namespaces: it starts processes, starts those again that end,
// reaps what is left to it, and takes commands at a socket. It owns processes;
// what they are is its caller's business.
//
// A process is kept running until somebody says stop or kill; from then on it
// is down until start. That is how tests cause faults.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is one to be kept running.
type Process struct {
	Name string
	Argv []string
	Env  []string
	Log  string // file; output is appended
	// Namespaces are clone flags of namespaces that it gets anew.
	Namespaces uintptr
	// Before runs before each start, Started after it; nil is nothing to do.
	Before  func(context.Context) error
	Started func(ctx context.Context, pid int) error
}

// Status is what is known of a process.
type Status struct {
	Name   string
	PID    int    // 0 while it does not run; as the supervisor sees it
	Wanted bool   // it is started again when it ends
	Starts int    // how often it was started
	Ended  string `json:",omitempty"` // how it ended last
	Log    string
}

// attempts is how often a process may start before a boot is given up: a wrong
// flag ends it at once, each time.
const attempts = 5

// Broken is the error of a process that doesn't come up.
func (s Status) Broken() error {
	if s.Starts < attempts {
		return nil
	}
	return fmt.Errorf("%s was started %d times and ended each time, last %s: see %s", s.Name, s.Starts, s.Ended, s.Log)
}

// Supervisor is the first process's state. New makes one; Run makes it reap.
type Supervisor struct {
	log  *slog.Logger
	mu   sync.Mutex // of all below; held from fork until the child is known
	kids map[int]chan<- unix.WaitStatus
	all  []*kept
	wg   sync.WaitGroup
}

type kept struct {
	Process
	nudge chan struct{} // something changed; one slot
	// The rest is the supervisor's, under its mutex.
	Status
}

// New returns a Supervisor that has nothing to do yet.
func New(log *slog.Logger) *Supervisor {
	return &Supervisor{log: log, kids: map[int]chan<- unix.WaitStatus{}}
}

// again is the pause before a process that ended is started again.
const again = time.Second

// Run reaps until ctx ends, and returns when every kept process's goroutine
// has. It kills nobody: who ends a machine ends its namespace.
func (s *Supervisor) Run(ctx context.Context) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGCHLD)
	defer signal.Stop(signals)
	tick := time.NewTicker(time.Second) // a signal may have come before Notify
	defer tick.Stop()
	for {
		s.reap()
		select {
		case <-signals:
		case <-tick.C:
		case <-ctx.Done():
			s.wg.Wait()
			return
		}
	}
}

func (s *Supervisor) reap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if done, ours := s.kids[pid]; ours {
			delete(s.kids, pid)
			done <- ws // one slot, one status
		}
	}
}

// spawn starts a process; done gets its end.
func (s *Supervisor) spawn(argv, env []string, out *os.File, namespaces uintptr) (pid int, done <-chan unix.WaitStatus, err error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	ch := make(chan unix.WaitStatus, 1)
	pid, err = syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Dir: "/", Env: env, Files: []uintptr{null.Fd(), out.Fd(), out.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true, Cloneflags: namespaces},
	})
	if err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	s.kids[pid] = ch
	return pid, ch, nil
}

// Keep starts a process and keeps it running until ctx ends. It returns the
// error of its first start.
func (s *Supervisor) Keep(ctx context.Context, p Process) error {
	k := &kept{Process: p, nudge: make(chan struct{}, 1)}
	k.Status = Status{Name: p.Name, Wanted: true, Log: p.Log}
	s.mu.Lock()
	s.all = append(s.all, k)
	s.mu.Unlock()
	done, err := s.start(ctx, k)
	if err != nil {
		return err
	}
	s.wg.Go(func() { s.keep(ctx, k, done) })
	return nil
}

// start is one start of a process. Its nil channel means that it ended in the
// meantime, or that nobody wants it.
func (s *Supervisor) start(ctx context.Context, k *kept) (<-chan unix.WaitStatus, error) {
	if k.Before != nil {
		if err := k.Before(ctx); err != nil {
			return nil, fmt.Errorf("prepare %s: %w", k.Process.Name, err)
		}
	}
	out, err := os.OpenFile(k.Process.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	pid, done, err := s.spawn(k.Argv, k.Env, out, k.Namespaces)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	k.PID = pid
	k.Starts++
	s.mu.Unlock()
	if k.Started != nil {
		if err := k.Started(ctx, pid); err != nil {
			s.signal(k, unix.SIGKILL)
			return done, fmt.Errorf("after the start of %s: %w", k.Process.Name, err)
		}
	}
	return done, nil
}

// keep follows a process from its first start on.
func (s *Supervisor) keep(ctx context.Context, k *kept, done <-chan unix.WaitStatus) {
	for {
		select {
		case ws := <-done:
			done = nil
			s.ended(k, describe(ws))
		case <-k.nudge:
		case <-ctx.Done():
			return
		}
		for done == nil && s.wanted(k) && ctx.Err() == nil {
			var err error
			if done, err = s.start(ctx, k); err != nil {
				s.log.Error("a process does not start", "process", k.Process.Name, "error", err)
				if done == nil {
					pause(ctx, again)
				}
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// ended notes the end of a process; one that should run rests a moment.
func (s *Supervisor) ended(k *kept, how string) {
	s.mu.Lock()
	k.PID, k.Ended = 0, how
	wanted := k.Wanted
	s.mu.Unlock()
	s.log.Info("a process ended", "process", k.Process.Name, "how", how, "wanted", wanted)
	if wanted {
		time.Sleep(again)
	}
}

func (s *Supervisor) wanted(k *kept) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return k.Wanted
}

func describe(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return "by signal " + unix.SignalName(ws.Signal())
	}
	return fmt.Sprintf("with code %d", ws.ExitStatus())
}

// signal reaches a process that was not reaped yet, and nobody else.
func (s *Supervisor) signal(k *kept, sig unix.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k.PID != 0 {
		if _, alive := s.kids[k.PID]; alive {
			_ = unix.Kill(k.PID, sig) // it may be ending
		}
	}
}

// Statuses lists all kept processes.
func (s *Supervisor) Statuses() (out []Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.all {
		out = append(out, k.Status)
	}
	return out
}

func (s *Supervisor) find(name string) (*kept, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.all, func(k *kept) bool { return k.Process.Name == name })
	if i < 0 {
		var names []string
		for _, k := range s.all {
			names = append(names, k.Process.Name)
		}
		return nil, fmt.Errorf("there is no process %s here: there are %s", name, strings.Join(names, ", "))
	}
	return s.all[i], nil
}

// grace is what a process has to end after SIGTERM.
const grace = 10 * time.Second

// poll is how often the end or the start of a process is looked for.
const poll = 10 * time.Millisecond

// Do carries out one command on a process: start, stop (SIGTERM, then
// SIGKILL), kill (SIGKILL), pause or resume. It returns when that is done.
func (s *Supervisor) Do(ctx context.Context, op, name string) error {
	k, err := s.find(name)
	if err != nil {
		return err
	}
	switch op {
	case "start":
		s.want(k, true)
		return s.await(ctx, k, func() bool { return k.PID != 0 })
	case "stop":
		s.want(k, false)
		s.signal(k, unix.SIGTERM)
		polite, cancel := context.WithTimeout(ctx, grace)
		defer cancel()
		if s.await(polite, k, func() bool { return k.PID == 0 }) == nil {
			return nil
		}
		fallthrough
	case "kill":
		s.want(k, false)
		s.signal(k, unix.SIGKILL)
		return s.await(ctx, k, func() bool { return k.PID == 0 })
	case "pause":
		s.signal(k, unix.SIGSTOP)
		return nil
	case "resume":
		s.signal(k, unix.SIGCONT)
		return nil
	}
	return fmt.Errorf("%s is no command: there are start, stop, kill, pause and resume", op)
}

func (s *Supervisor) want(k *kept, wanted bool) {
	s.mu.Lock()
	k.Wanted = wanted
	s.mu.Unlock()
	select {
	case k.nudge <- struct{}{}:
	default: // it looks anyway
	}
}

func (s *Supervisor) await(ctx context.Context, k *kept, cond func() bool) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		s.mu.Lock()
		ok := cond()
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", k.Process.Name, context.Cause(ctx))
		}
	}
}

// Command runs a program to its end and returns what it printed.
func (s *Supervisor) Command(ctx context.Context, env []string, argv ...string) (string, error) {
	out, err := os.CreateTemp("", "command-")
	if err != nil {
		return "", err
	}
	defer out.Close()
	defer os.Remove(out.Name())
	pid, done, err := s.spawn(argv, env, out, 0)
	if err != nil {
		return "", err
	}
	var ws unix.WaitStatus
	select {
	case ws = <-done:
	case <-ctx.Done():
		_ = unix.Kill(pid, unix.SIGKILL) // nobody else waits for it
		<-done
		return "", fmt.Errorf("%s: %w", strings.Join(argv, " "), context.Cause(ctx))
	}
	raw, err := os.ReadFile(out.Name())
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(raw))
	if !ws.Exited() || ws.ExitStatus() != 0 {
		return text, fmt.Errorf("%s ended %s: %s", strings.Join(argv, " "), describe(ws), text)
	}
	return text, nil
}
