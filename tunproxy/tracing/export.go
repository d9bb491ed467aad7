package tracing

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/rpc"
)

const (
	// method is OTLP's, over gRPC.
	method = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
	// dialTimeout and callTimeout bound a connection and an export; OTLP's own
	// default for the latter.
	dialTimeout = 5 * time.Second
	callTimeout = 10 * time.Second
	// patience is how long a batch is tried to be exported.
	patience = 30 * time.Second
	// firstPause and lastPause are between attempts, while the collector is away.
	firstPause = time.Second
	lastPause  = 15 * time.Second
	// quiet is how long the collector may say nothing: each call has a deadline,
	// and gRPC's servers break connections that ping them for nothing.
	quiet = 10 * time.Minute
	// untraced marks the exporter's own calls as not sampled, so that no sidecar on
	// their way makes spans of them, which would have to be exported in turn.
	untraced = "00-00000000000000000000000000000001-0000000000000001-00"
)

// exporter is what Run has while it runs.
type exporter struct {
	t     *Tracer
	conn  *rpc.Conn // nil: none
	over  chan struct{}
	wg    sync.WaitGroup
	pause time.Duration // before the next attempt; 0: the last one succeeded
	away  bool          // and the log knows
}

// Run exports until ctx ends, and gives up then what is left.
func (t *Tracer) Run(ctx context.Context) {
	e := &exporter{t: t}
	defer e.close()
	timer := time.NewTimer(gather)
	defer timer.Stop()
	var spans []byte
	for {
		select {
		case <-t.wake:
		case <-ctx.Done():
			return
		}
		timer.Reset(t.gather())
		select {
		case <-timer.C:
		case <-t.full:
		case <-ctx.Done():
		}
		var n int
		if spans, n = t.take(spans); n > 0 {
			e.export(ctx, spans, n)
		}
		if cap(spans) > 2*batch {
			spans = nil // a quiet sidecar holds no large buffer
		}
	}
}

// gather is how long spans are collected.
func (t *Tracer) gather() time.Duration {
	if t.hurried.Load() {
		return hurry
	}
	return gather
}

// export hands n spans over, or gives them up.
func (e *exporter) export(ctx context.Context, spans []byte, n int) {
	msg := request(make([]byte, 0, len(spans)+1024), e.t.cfg.Resource(), e.t.cfg.Version, spans)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if !sleep(ctx, jittered(e.pause)) {
			e.t.unreachable.Add(uint64(n))
			return
		}
		answer, err := e.call(ctx, msg)
		switch {
		case err == nil:
			e.there()
			e.taken(n, answer)
			return
		case retryable(err):
			e.failed(err)
		default:
			e.there()
			e.t.notAccepted.Add(uint64(n))
			e.t.cfg.Logger.Warn("the collector refused spans", "collector", e.t.cfg.Authority, "spans", n, "error", err)
			return
		}
	}
}

// taken counts what the collector took of n spans.
func (e *exporter) taken(n int, answer []byte) {
	no, why := rejected(answer)
	no = min(no, uint64(n))
	e.t.exported.Add(uint64(n) - no)
	e.t.notAccepted.Add(no)
	if no > 0 {
		e.t.cfg.Logger.Debug("the collector rejected spans", "collector", e.t.cfg.Authority, "spans", no, "why", why)
	}
}

// call makes one attempt. A connection that ended while nobody used it says nothing
// about the collector, and is made anew.
func (e *exporter) call(ctx context.Context, msg []byte) ([]byte, error) {
	if e.conn != nil {
		select {
		case <-e.over:
			e.close()
		default:
		}
	}
	if e.conn == nil {
		if err := e.connect(ctx); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	e.t.requests.Add(1)
	answer, err := e.conn.Call(ctx, method, msg)
	if err != nil && retryable(err) {
		e.close() // whatever is wrong with it, the next may meet another collector
	}
	return answer, err
}

func (e *exporter) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	nc, err := e.t.cfg.Dial(ctx)
	if err != nil {
		return &rpc.Status{Code: rpc.Unavailable, Cause: fmt.Errorf("connect to the collector: %w", err)}
	}
	e.t.streams.Add(1)
	c := rpc.New(nc, rpc.Config{
		Authority: e.t.cfg.Authority, Plain: true, UserAgent: "tunmesh/" + e.t.cfg.Version, Quiet: quiet,
		Fields: []message.Field{{Name: "traceparent", Value: untraced}},
	})
	over := make(chan struct{})
	e.conn, e.over = c, over
	e.wg.Go(func() {
		defer close(over)
		_ = c.Run(context.WithoutCancel(ctx)) // until close
	})
	return nil
}

// close ends the connection, if there is one, and waits for its goroutines.
func (e *exporter) close() {
	if e.conn != nil {
		e.conn.Close()
		e.wg.Wait()
		e.conn = nil
	}
}

// failed notes an attempt in vain; the log has the first of many.
func (e *exporter) failed(err error) {
	e.pause = min(max(2*e.pause, firstPause), lastPause)
	if !e.away {
		e.away = true
		e.t.cfg.Logger.Warn("the collector takes no spans; trying again", "collector", e.t.cfg.Authority, "error", err)
	}
}

// there notes that the collector answered.
func (e *exporter) there() {
	e.pause = 0
	if e.away {
		e.away = false
		e.t.cfg.Logger.Info("the collector takes spans again", "collector", e.t.cfg.Authority)
	}
}

// retryable reports the errors after which OTLP wants the same spans again.
func retryable(err error) bool {
	switch rpc.CodeOf(err) {
	case rpc.Canceled, rpc.DeadlineExceeded, rpc.ResourceExhausted, rpc.Aborted, rpc.OutOfRange, rpc.Unavailable, rpc.DataLoss:
		return true
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, rpc.ErrTooManyStreams)
}

// jittered spreads sidecars that lost the same collector: half of d, up to d.
func jittered(d time.Duration) time.Duration {
	if d == 0 {
		return 0
	}
	return d/2 + rand.N(d/2)
}

// sleep waits, and reports whether ctx let it.
func sleep(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
