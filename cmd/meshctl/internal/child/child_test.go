package child

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/internal/transcript"
)

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: ", what)
		}
	}
}

func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out transcript.Transcript
	p := &Program{Name: "p", Out: &out, Log: slog.New(slog.DiscardHandler), Env: os.Environ(),
		Argv: []string{"/bin/sh", "-c", "trap 'echo bye; exit' TERM; echo up; while true; do sleep 0.02; done"}}
	ended := make(chan struct{})
	go func() { p.Run(ctx); close(ended) }()
	for n := 1; n <= 3; n++ {
		eventually(t, "it runs", func() bool { return strings.Count(out.String(), "up\n") == n && p.PID() != 0 })
		if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		pid := p.PID()
		eventually(t, "it runs again", func() bool { now := p.PID(); return now != 0 && now != pid })
	}
	eventually(t, "it runs", func() bool { return strings.Count(out.String(), "up\n") == 4 })
	cancel()
	<-ended
	if !strings.HasSuffix(out.String(), "bye\n") {
		t.Errorf("it was not asked to end: %q", out.String())
	}
	if p.PID() != 0 {
		t.Error("it has a pid after its end")
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "prog"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if p, err := Find(dir, "prog"); err != nil || p != filepath.Join(dir, "prog") {
		t.Errorf("%s, %v", p, err)
	}
	for _, bad := range []string{"data", "none", "."} {
		if p, err := Find(dir, bad); err == nil {
			t.Errorf("%s was found at %s", bad, p)
		}
	}
}
