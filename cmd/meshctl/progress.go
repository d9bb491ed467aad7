package main

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// progressAfter is how long something may take before its progress is told.
const progressAfter = time.Second

// progress tells on stderr what is going on, when it takes long: on a terminal
// in one line that changes, else a line a change.
type progress struct {
	f     *os.File
	live  bool
	begun time.Time

	mu    sync.Mutex
	last  string
	shown bool
}

func (a *app) progress() *progress {
	f, ok := a.err.(*os.File)
	p := &progress{begun: time.Now()}
	if ok {
		p.f, p.live = f, isTerminal(f)
	}
	return p
}

func (p *progress) say(s string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.f == nil || s == p.last && p.shown {
		return
	}
	p.last = s
	if !p.live && time.Since(p.begun) < progressAfter {
		return
	}
	p.shown = true
	if p.live {
		fmt.Fprintf(p.f, "\r\033[K%s …", s)
		return
	}
	fmt.Fprintln(p.f, s)
}

// done removes the line.
func (p *progress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live && p.shown {
		fmt.Fprint(p.f, "\r\033[K")
	}
}
