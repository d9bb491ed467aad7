package aiotest

import (
	"context"
	"time"
)

// Serve turns l into a loop of real time on the calling goroutine until ctx
// ends, for tests whose other party is a blocking goroutine. While it runs,
// only Post may be called from elsewhere. It ends the loop before it returns.
func (l *Loop) Serve(ctx context.Context) {
	defer l.End()
	start := time.Now().Add(-l.now)
	idle := time.NewTimer(0)
	defer idle.Stop()
	for ctx.Err() == nil {
		l.now = time.Since(start)
		if l.Pass() {
			continue
		}
		wait := time.Second
		for _, t := range l.timers {
			wait = min(wait, t.at-l.now)
		}
		idle.Reset(max(wait, 0))
		select {
		case <-l.wake:
		case <-idle.C:
		case <-ctx.Done():
		}
	}
}

// Do runs f on a loop that Serve runs, and waits for it. It reports false when
// the loop has ended.
func (l *Loop) Do(f func()) bool {
	done := make(chan struct{})
	if !l.Post(func() { f(); close(done) }) {
		return false
	}
	select {
	case <-done:
		return true
	case <-time.After(10 * time.Second):
		panic("aiotest: the loop does not answer within 10 s")
	}
}
