package accesslog

import (
	"bytes"
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxPending is how many bytes of lines wait for the file: 20 ms of 40,000
	// requests per second.
	maxPending = 256 << 10
	// gather is how long lines are collected before they are written: a write for
	// each would cost more than the request.
	gather = 20 * time.Millisecond
	// lastWrite bounds how long the end waits for a file that takes nothing.
	lastWrite = time.Second
)

// Log is an access log. Its methods may be called from several loops.
type Log struct {
	format  Format
	file    io.Writer
	wake    chan struct{} // has room for one; never closed
	dropped atomic.Uint64

	mu      sync.Mutex
	pending []byte
}

// New makes a log of lines in a format, written to file while Run runs.
func New(f Format, file io.Writer) *Log {
	return &Log{format: f, file: file, wake: make(chan struct{}, 1)}
}

// Add appends a line, or drops it when too much waits already. It never waits
// for the file, and keeps nothing of e.
func (l *Log) Add(e *Entry) {
	l.mu.Lock()
	before := len(l.pending)
	l.pending = l.format.Append(l.pending, e)
	if before > 0 && len(l.pending) > maxPending {
		l.pending = l.pending[:before]
		l.dropped.Add(1)
	}
	l.mu.Unlock()
	if before == 0 {
		select {
		case l.wake <- struct{}{}:
		default: // it is awake
		}
	}
}

// Dropped is how many lines are lost: too many waited, or the file failed.
func (l *Log) Dropped() uint64 { return l.dropped.Load() }

// Run writes until ctx ends, and then what is left. A write that does not
// return is left behind.
func (l *Log) Run(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.write(ctx)
	}()
	<-ctx.Done()
	limit := time.NewTimer(lastWrite)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
	}
}

// write hands to the file what has gathered, until ctx ends.
func (l *Log) write(ctx context.Context) {
	pause := time.NewTimer(gather)
	defer pause.Stop()
	var lines []byte
	for ended := false; !ended; {
		select {
		case <-l.wake:
			pause.Reset(gather)
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
		case <-ctx.Done():
		}
		ended = ctx.Err() != nil
		if lines = l.take(lines); len(lines) == 0 {
			continue
		}
		if n, err := l.file.Write(lines); err != nil {
			l.dropped.Add(uint64(bytes.Count(lines[max(n, 0):], []byte{'\n'})))
		}
	}
}

// take exchanges what waits for an empty buffer.
func (l *Log) take(empty []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.pending
	l.pending = empty[:0]
	return lines
}
