package discover

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/rpc"
)

const (
	// sendTimeout bounds the sending of a request that fits into any window.
	sendTimeout = 5 * time.Second
	// Pauses before a stream, or the connection, is tried again: doubled from
	// the first to the last, each varied by half.
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// pause is the wait after so many failures in a row. Jitter keeps the sidecars
// of a cluster apart when their control plane comes back.
func pause(fails int) time.Duration {
	d := lastPause
	if fails < 10 {
		d = min(firstPause<<fails, lastPause)
	}
	return d/2 + rand.N(d) //nolint:gosec // not a secret
}

// watch keeps one stream going while there is a connection.
type watch struct {
	client  *Client
	name    string // for logs
	method  string
	request []byte
	// take accepts one message, borrowed, or refuses it whole. first: it is the
	// first of its stream. It is called by one goroutine at a time.
	take func(p []byte, first bool) error

	mu      sync.Mutex
	now     *watching // the stream in use; nil: none
	fails   int       // streams in a row that brought nothing good
	timer   *time.Timer
	stopped bool
}

// watching is one stream of a watch.
type watching struct {
	w       *watch
	stream  *rpc.Stream
	counted func(error)
	good    atomic.Bool // the last message was taken
}

// start opens the stream on conn, unless there is one. It may block for
// sendTimeout.
func (w *watch) start(ctx context.Context, conn *rpc.Conn) {
	w.mu.Lock()
	if w.stopped || w.now != nil {
		w.mu.Unlock()
		return
	}
	h := &watching{w: w, counted: w.client.count(w.method)}
	w.now = h
	s, err := conn.Start(w.method, 0, h)
	h.stream = s
	w.mu.Unlock()
	if err != nil {
		h.counted(err)
		w.ended(h, err, false)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	if err := s.Send(ctx, w.request, true); err != nil {
		s.Cancel()
	}
}

// Message implements rpc.Handler.
func (h *watching) Message(s *rpc.Stream, p []byte) {
	w := h.w
	w.mu.Lock()
	mine := w.now == h
	w.mu.Unlock()
	if !mine {
		return
	}
	if err := w.take(p, !h.good.Load()); err != nil {
		w.client.cfg.Logger.Warn("control plane's update refused, the last good one stays", "watch", w.name, "err", err)
		if m := w.client.cfg.Metrics; m != nil {
			m.Control.Refused()
		}
		h.good.Store(false)
		s.Cancel()
		return
	}
	h.good.Store(true)
	w.client.heard()
}

// End implements rpc.Handler.
func (h *watching) End(_ *rpc.Stream, err error) {
	h.counted(err)
	h.w.ended(h, err, h.good.Load())
}

// ended plans the next stream. While the connection is over nothing comes of
// it: the next one starts all watches.
func (w *watch) ended(h *watching, err error, good bool) {
	w.mu.Lock()
	if w.now != h {
		w.mu.Unlock()
		return
	}
	w.now = nil
	if good {
		w.fails = 0
	}
	wait := pause(w.fails)
	w.fails++
	if !w.stopped {
		w.timer = time.AfterFunc(wait, w.again)
	}
	stopped := w.stopped
	w.mu.Unlock()
	if !stopped && err != nil {
		w.client.cfg.Logger.Log(context.Background(), level(err), "control plane's stream ended", "watch", w.name, "err", err, "again_in", wait)
		w.client.streamEnded(err)
	}
}

// level keeps an outage from filling the log: the connection reports it once.
func level(err error) slog.Level {
	if rpc.CodeOf(err) == rpc.Unavailable {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

func (w *watch) again() { w.client.enqueue(w) }

// reset forgets pauses: there is a new connection.
func (w *watch) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fails = 0
	if w.timer != nil {
		w.timer.Stop()
	}
}

// stop ends the watch for good.
func (w *watch) stop() {
	w.mu.Lock()
	w.stopped = true
	h := w.now
	w.now = nil
	if w.timer != nil {
		w.timer.Stop()
	}
	w.mu.Unlock()
	if h != nil && h.stream != nil {
		h.stream.Cancel()
	}
}
