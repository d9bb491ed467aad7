package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

func TestKeys(t *testing.T) {
	for bytes, want := range map[string][]string{
		"q": {"q"}, "ab": {"a", "b"}, "\x1b[A\x1b[Bx": {"up", "down", "x"}, "\x1b": {"esc"}, "\x03": {"ctrl+c"}, "\x1b[5~": {"pgup"}, "\x1b[99~": nil, "\r": nil,
	} {
		if got := Keys([]byte(bytes)); !slices.Equal(got, want) {
			t.Errorf("%q: %q", bytes, got)
		}
	}
}

// Only what changed is written.
func TestPaint(t *testing.T) {
	var b strings.Builder
	p := painter{out: &b}
	frame := func(width int, lines ...string) string {
		b.Reset()
		if err := p.paint(lines, width, 3); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	for i, c := range []struct{ got, want string }{
		{frame(80, "a", "b"), "\x1b[2J\x1b[1;1Ha\x1b[K\x1b[2;1Hb\x1b[K"},
		{frame(80, "a", "b"), ""},
		{frame(80, "a", "c"), "\x1b[2;1Hc\x1b[K"},
		{frame(80, "a"), "\x1b[2;1H\x1b[K"},
		{frame(80, "1", "2", "3", "4"), "\x1b[1;1H1\x1b[K\x1b[2;1H2\x1b[K\x1b[3;1H3\x1b[K"},
		{frame(40, "1"), "\x1b[2J\x1b[1;1H1\x1b[K"},
	} {
		if c.got != c.want {
			t.Errorf("%d: %q, want %q", i, c.got, c.want)
		}
	}
}

type screen struct {
	mu    sync.Mutex
	n     int
	keys  []string
	sizes []string
	fail  error
}

func (s *screen) Refresh(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	return s.fail
}

func (s *screen) Draw(width, height int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if size := fmt.Sprintf("%dx%d", width, height); !slices.Contains(s.sizes, size) {
		s.sizes = append(s.sizes, size)
	}
	return []string{fmt.Sprintf("turn %d", s.n)}
}

func (s *screen) Key(k string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = append(s.keys, k)
}

func (s *screen) wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		done := ok()
		s.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestRun(t *testing.T) {
	master, tty, err := pty.Open()
	if err != nil {
		t.Skipf("no terminal: %v", err)
	}
	defer master.Close()
	defer tty.Close()
	if err := pty.Setsize(tty, &pty.Winsize{Cols: 80, Rows: 10}); err != nil {
		t.Fatal(err)
	}
	var seen strings.Builder
	copied := make(chan struct{})
	go func() { defer close(copied); _, _ = io.Copy(&seen, master) }()
	s := &screen{}
	done := make(chan error, 1)
	go func() { done <- Run(t.Context(), tty, tty, time.Millisecond, s) }()
	s.wait(t, "two refreshes", func() bool { return s.n >= 2 })
	if _, err := master.WriteString("s\x1b[A"); err != nil {
		t.Fatal(err)
	}
	s.wait(t, "keys", func() bool { return slices.Equal(s.keys, []string{"s", "up"}) })
	if err := pty.Setsize(tty, &pty.Winsize{Cols: 200, Rows: 50}); err != nil {
		t.Fatal(err)
	}
	s.wait(t, "the other size", func() bool { return slices.Equal(s.sizes, []string{"80x10", "200x50"}) })
	if _, err := master.WriteString("q"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	s.fail = errors.New("nobody answers")
	if err := Run(t.Context(), tty, tty, time.Millisecond, s); !errors.Is(err, s.fail) {
		t.Errorf("%v", err)
	}
	s.fail = nil
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := Run(ctx, tty, tty, time.Hour, s); err != nil {
		t.Errorf("%v", err)
	}
	if err := tty.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	master.Close()
	<-copied
	if text := seen.String(); !strings.Contains(text, "turn 1") || strings.Count(text, leave) != 3 {
		t.Errorf("%q", text)
	}
}
