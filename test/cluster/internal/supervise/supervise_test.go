package supervise_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/test/cluster/internal/supervise"
)

// start returns a supervisor that serves at a socket until the test ends. It reaps
// all children of the test's process.
func start(t *testing.T) (*supervise.Supervisor, supervise.Client) {
	t.Helper()
	s := supervise.New(slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, cancel := context.WithCancel(t.Context())
	c := supervise.Client{Path: filepath.Join(t.TempDir(), "s")}
	ran, served := make(chan struct{}), make(chan error, 1)
	go func() { s.Run(ctx); close(ran) }()
	go func() { served <- s.Serve(ctx, c.Path) }()
	t.Cleanup(func() {
		cancel()
		<-ran
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	until(t, "the socket", func() bool { _, err := c.PID(t.Context()); return err == nil })
	return s, c
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func status(t *testing.T, c supervise.Client, name string) supervise.Status {
	t.Helper()
	all, err := c.Statuses(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no process %s", name)
	return supervise.Status{}
}

func keep(t *testing.T, s *supervise.Supervisor, p supervise.Process) {
	t.Helper()
	p.Log = filepath.Join(t.TempDir(), "log")
	if err := s.Keep(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, st := range s.Statuses() {
			if st.PID != 0 {
				_ = unix.Kill(st.PID, unix.SIGKILL)
			}
		}
	})
}

func TestProcessIsKept(t *testing.T) {
	s, c := start(t)
	before := 0
	keep(t, s, supervise.Process{
		Name: "sleeper", Argv: []string{"/bin/sleep", "1000"},
		Before: func(context.Context) error { before++; return nil },
	})
	first := status(t, c, "sleeper")
	if first.PID == 0 || first.Starts != 1 {
		t.Fatalf("%+v", first)
	}
	if err := unix.Kill(first.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "started again", func() bool { st := status(t, c, "sleeper"); return st.Starts == 2 && st.PID != 0 })
	if st := status(t, c, "sleeper"); st.Ended != "by signal SIGKILL" || before != 2 {
		t.Errorf("%+v, prepared %d times", st, before)
	}
}

func TestCommands(t *testing.T) {
	s, c := start(t)
	keep(t, s, supervise.Process{Name: "sleeper", Argv: []string{"/bin/sleep", "1000"}})
	do := func(op string) {
		t.Helper()
		if err := c.Do(t.Context(), op, "sleeper"); err != nil {
			t.Fatal(err)
		}
	}
	do("stop")
	if st := status(t, c, "sleeper"); st.PID != 0 || st.Ended != "by signal SIGTERM" {
		t.Errorf("%+v", st)
	}
	do("start")
	do("pause")
	pid := status(t, c, "sleeper").PID
	until(t, "paused", func() bool { return state(t, pid) == "T" })
	do("resume")
	until(t, "resumed", func() bool { return state(t, pid) == "S" })
	do("kill")
	time.Sleep(1200 * time.Millisecond) // longer than the pause before it would come again
	if st := status(t, c, "sleeper"); st.PID != 0 || st.Starts != 2 {
		t.Errorf("killed, and came again: %+v", st)
	}
	if err := c.Do(t.Context(), "start", "nobody"); err == nil || !strings.Contains(err.Error(), "there is no process nobody here: there are sleeper") {
		t.Error(err)
	}
	if err := c.Do(t.Context(), "dance", "sleeper"); err == nil || !strings.Contains(err.Error(), "no command") {
		t.Error(err)
	}
}

func state(t *testing.T, pid int) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))[0]
}

func TestRunCommand(t *testing.T) {
	s, c := start(t)
	if out, err := s.Command(t.Context(), []string{"WHO=you"}, "/bin/sh", "-c", "echo hello $WHO"); err != nil || out != "hello you" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := s.Command(t.Context(), nil, "/bin/sh", "-c", "echo why >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "with code 3: why") {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Command(ctx, nil, "/bin/sleep", "1000"); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Error(err)
	}
	if pid, err := c.PID(t.Context()); err != nil || pid != os.Getpid() {
		t.Errorf("%d, %v: want %d", pid, err, os.Getpid())
	}
}

func TestFailedStarts(t *testing.T) {
	s, _ := start(t)
	log := filepath.Join(t.TempDir(), "log")
	if err := s.Keep(t.Context(), supervise.Process{Name: "x", Argv: []string{"/nowhere"}, Log: log}); err == nil || !strings.Contains(err.Error(), "start /nowhere") {
		t.Error(err)
	}
	failing := func(context.Context) error { return os.ErrPermission }
	if err := s.Keep(t.Context(), supervise.Process{Name: "y", Argv: []string{"/bin/true"}, Log: log, Before: failing}); err == nil || !strings.Contains(err.Error(), "prepare y") {
		t.Error(err)
	}
}
