package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/live"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

// watchStat draws a table again and again: on a terminal in its place, into a
// pipe one after the other.
func (a *app) watchStat(cmd *cobra.Command, f statFlags, ask func(context.Context) ([]*query.StatRow, error)) error {
	s := &statScreen{flags: f, ask: ask, bold: a.bold()}
	if a.live() {
		return live.Run(cmd.Context(), a.in, a.terminal(), f.every, s)
	}
	return repeat(cmd.Context(), f.every, func(ctx context.Context, first bool) error {
		rows, err := ask(ctx)
		if err != nil {
			return err
		}
		if !first {
			if _, err := fmt.Fprintln(a.out); err != nil {
				return err
			}
		}
		return f.print(a.told(len(rows)), rows)
	})
}

// repeat calls f at once and then every so often, until ctx ends or it fails.
func repeat(ctx context.Context, every time.Duration, f func(ctx context.Context, first bool) error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for first := true; ; first = false {
		if err := f(ctx, first); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// statScreen is a table of stat that is kept up to date.
type statScreen struct {
	flags statFlags
	ask   func(context.Context) ([]*query.StatRow, error)
	bold  func(string) string

	mu   sync.Mutex
	rows []*query.StatRow
	at   time.Time
	top  int // the first row that is drawn
}

// Refresh implements live.Screen.
func (s *statScreen) Refresh(ctx context.Context) error {
	rows, err := s.ask(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows, s.at = rows, time.Now()
	return nil
}

// Draw implements live.Screen.
func (s *statScreen) Draw(width, height int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at.IsZero() {
		return []string{"…"}
	}
	var b strings.Builder
	if err := render.Stat(&b, s.rows, s.flags.options(width)); err != nil {
		return []string{err.Error()}
	}
	return page(b.String(), &s.top, width, height, s.bold, fmt.Sprintf("%s, the last %v. q: end, ↑↓: more", s.at.Format("15:04:05"), s.flags.window))
}

// Key implements live.Screen.
func (s *statScreen) Key(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	scroll(&s.top, name)
}

// scroll moves the first row that is drawn.
func scroll(top *int, key string) {
	switch key {
	case "up", "k":
		*top--
	case "down", "j":
		*top++
	case "pgup":
		*top -= 20
	case "pgdown", " ":
		*top += 20
	case "home":
		*top = 0
	}
	*top = max(*top, 0)
}

// page is a table's head, the rows that there is room for, and a last line.
func page(text string, top *int, width, height int, bold func(string) string, foot string) []string {
	lines := render.Crop(text, width, 1<<20)
	room := max(height-2, 1)
	*top = max(min(*top, len(lines)-1-room), 0)
	out := []string{bold(lines[0])}
	out = append(out, lines[1+*top:min(len(lines), 1+*top+room)]...)
	return append(out, render.Crop(foot, width, 1)...)
}

// terminal is the output where live says that it is one.
func (a *app) terminal() *os.File {
	f, _ := a.out.(*os.File)
	return f
}

// bold makes a head stand out, where somebody looks and has not asked for none.
func (a *app) bold() func(string) string {
	if a.env("NO_COLOR") != "" || !a.live() {
		return func(s string) string { return s }
	}
	return func(s string) string { return "\x1b[1m" + s + "\x1b[0m" }
}
