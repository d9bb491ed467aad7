package telemetry

import (
	"encoding/hex"
	"sync/atomic"
	"time"
)

// exemplars are, for each bucket of a histogram, a request that fell into it and
// that is in a trace that somebody keeps.
type exemplars [len(bounds) + 1]atomic.Pointer[exemplar]

type exemplar struct {
	trace [16]byte
	took  time.Duration
	at    time.Time
}

// exemplarEvery is how long an exemplar stays at least: it is an allocation.
const exemplarEvery = time.Second

// show makes a request of a trace the exemplar of its bucket, unless there is a
// young one. The trace is told by its id, or else by a traceparent.
func (h *Latency) show(d time.Duration, trace string, id [16]byte) {
	p := h.shown.Load()
	now := time.Now()
	i := bucket(d)
	if p != nil {
		if e := p[i].Load(); e != nil && now.Sub(e.at) < exemplarEvery {
			return
		}
	}
	if id == [16]byte{} {
		var ok bool
		if id, ok = sampledTrace(trace); !ok {
			return
		}
	}
	if p == nil {
		p = new(exemplars)
		if !h.shown.CompareAndSwap(nil, p) {
			p = h.shown.Load()
		}
	}
	p[i].Store(&exemplar{trace: id, took: d, at: now})
}

func (h *Latency) exemplar(i int) *exemplar {
	if p := h.shown.Load(); p != nil {
		return p[i].Load()
	}
	return nil
}

// sampledTrace reads a traceparent (W3C Trace Context, version 00 and what later
// ones keep of it): the trace, if its caller records it.
func sampledTrace(s string) (id [16]byte, ok bool) {
	const size = len("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	if len(s) < size || s[2] != '-' || s[35] != '-' || s[52] != '-' || s[:2] == "ff" || s[:2] == "00" && len(s) != size {
		return id, false
	}
	var flags [1]byte
	if _, err := hex.Decode(flags[:], []byte(s[53:55])); err != nil || flags[0]&1 == 0 {
		return id, false
	}
	if _, err := hex.Decode(id[:], []byte(s[3:35])); err != nil || id == [16]byte{} {
		return id, false
	}
	return id, true
}
