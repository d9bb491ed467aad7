// Package live shows something that changes on a terminal, until whoever looks at
// it has seen enough. It owns the terminal, its size and its keys, and writes
// only lines that changed, so that nothing flickers. It refuses to know what is
// shown.
package live

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Screen is what is shown. Refresh runs beside the others, one at a time.
type Screen interface {
	// Refresh brings it up to date.
	Refresh(ctx context.Context) error
	// Draw returns the lines, at most height, none wider than width.
	Draw(width, height int) []string
	// Key is a key that somebody pressed, as "c" or "left".
	Key(name string)
}

const (
	// lookEvery is how often keys and the terminal's size are looked at.
	lookEvery = 50 * time.Millisecond
	enter     = "\x1b[?1049h\x1b[?25l" // the other screen, no cursor
	leave     = "\x1b[?25h\x1b[?1049l"
)

// Run shows a screen until ctx ends, Refresh fails, or somebody presses q.
func Run(ctx context.Context, in, out *os.File, every time.Duration, s Screen) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	keys := term.IsTerminal(int(in.Fd()))
	if keys {
		old, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return fmt.Errorf("take the terminal's keys: %w", err)
		}
		defer func() { _ = term.Restore(int(in.Fd()), old) }() // nothing better is left to do
	}
	if _, err := io.WriteString(out, enter); err != nil {
		return err
	}
	defer func() { _, _ = io.WriteString(out, leave) }()
	refreshed := make(chan error, 1) // of one slot: one Refresh runs at a time
	refresh := func() { refreshed <- s.Refresh(ctx) }
	go refresh()
	// While Refresh runs ctx is what ends it, and it is waited for.
	defer func() {
		cancel()
		if refreshed != nil {
			<-refreshed
		}
	}()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var next <-chan time.Time
	p := painter{out: out}
	running := true
	for {
		width, height, err := term.GetSize(int(out.Fd()))
		if err != nil || width < 1 || height < 1 {
			width, height = 80, 24
		}
		if err := p.paint(s.Draw(width, height), width, height); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			if !running {
				refreshed = nil
			}
			return nil
		case err := <-refreshed:
			running = false
			if err != nil {
				refreshed = nil
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			next = time.NewTimer(every).C
		case <-next:
			next, running = nil, true
			go refresh()
		case <-look.C:
			if !keys {
				continue
			}
			for _, k := range pressed(in) {
				if k == "q" || k == "esc" || k == "ctrl+c" {
					if !running {
						refreshed = nil
					}
					return nil
				}
				s.Key(k)
			}
		}
	}
}

// pressed reads the keys that wait, and never waits for one.
func pressed(in *os.File) []string {
	fds := []unix.PollFd{{Fd: int32(in.Fd()), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 0); err != nil || n == 0 {
		return nil
	}
	var b [64]byte
	n, err := in.Read(b[:])
	if err != nil {
		return []string{"q"} // the terminal is gone
	}
	return Keys(b[:n])
}

// Keys are the names of the keys that a terminal sent.
func Keys(b []byte) (names []string) {
	long := []struct{ bytes, name string }{
		{"\x1b[A", "up"}, {"\x1b[B", "down"}, {"\x1b[C", "right"}, {"\x1b[D", "left"}, {"\x1bOA", "up"}, {"\x1bOB", "down"},
		{"\x1bOC", "right"}, {"\x1bOD", "left"}, {"\x1b[5~", "pgup"}, {"\x1b[6~", "pgdown"}, {"\x1b[H", "home"}, {"\x1b[1~", "home"},
	}
next:
	for len(b) > 0 {
		for _, l := range long {
			if bytes.HasPrefix(b, []byte(l.bytes)) {
				names, b = append(names, l.name), b[len(l.bytes):]
				continue next
			}
		}
		switch c := b[0]; {
		case c == 3:
			names = append(names, "ctrl+c")
		case c == 0x1b && len(b) == 1:
			names = append(names, "esc")
		case c == 0x1b:
			return names // a key that has no name here
		case c >= ' ' && c < 0x7f:
			names = append(names, string(rune(c)))
		}
		b = b[1:]
	}
	return names
}

// painter writes frames.
type painter struct {
	out           io.Writer
	width, height int
	lines         []string
}

// paint writes what differs from the frame before, in one write.
func (p *painter) paint(lines []string, width, height int) error {
	var b bytes.Buffer
	if width != p.width || height != p.height {
		b.WriteString("\x1b[2J")
		p.width, p.height, p.lines = width, height, nil
	}
	lines = lines[:min(len(lines), height)]
	for i := range max(len(lines), len(p.lines)) {
		line, was := "", ""
		if i < len(lines) {
			line = lines[i]
		}
		if i < len(p.lines) {
			was = p.lines[i]
		}
		if line != was {
			fmt.Fprintf(&b, "\x1b[%d;1H%s\x1b[K", i+1, line)
		}
	}
	p.lines = append(p.lines[:0], lines...)
	if b.Len() == 0 {
		return nil
	}
	_, err := p.out.Write(b.Bytes())
	return err
}
