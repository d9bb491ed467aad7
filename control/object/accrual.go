package object

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// Linkerd's defaults and bounds.
const (
	accrualFailures  = 7
	accrualMin       = time.Second
	accrualMax       = time.Minute
	accrualJitter    = 0.5
	rateThreshold    = 0.8
	rateWindow       = 10 * time.Second
	rateRequests     = 5
	minRateWindow    = 10 * time.Millisecond
	maxRateRequests  = 1_000_000
	maxJitter        = 100
	accrualLimit     = math.MaxInt32
	biaserPenalty    = 5 * time.Second
	biaserRetryAfter = 300 * time.Second
	modeConsecutive  = "consecutive"
	modeUnified      = "unified"
	accrualModesText = "consecutive or unified"
)

// accrual reads what turns circuit breakers on; nil: nothing does.
func (r *reader) accrual() *catalog.Accrual {
	mode, under, ok := r.get(annotation.FailureAccrual)
	if !ok {
		return nil
	}
	if !slices.Contains([]string{modeConsecutive, modeUnified}, mode) {
		r.bad(under, fmt.Errorf("%q is not a way to count failures: write %s", mode, accrualModesText))
		return nil
	}
	a := &catalog.Accrual{
		Consecutive: r.count(annotation.AccrualMaxFailures, accrualFailures, accrualLimit),
		Backoff:     r.penalty(),
		RetryAfter:  r.boolean(annotation.AccrualRetryAfter),
	}
	if mode == modeUnified {
		a.Rate = r.rate()
	}
	return a
}

// penalty reads the rest of an endpoint: its ends are believed together or not at
// all.
func (r *reader) penalty() catalog.Backoff {
	b := catalog.Backoff{
		Min:    r.duration(annotation.AccrualMinPenalty, accrualMin),
		Max:    r.duration(annotation.AccrualMaxPenalty, accrualMax),
		Jitter: r.number(annotation.AccrualJitterRatio, accrualJitter, maxJitter),
	}
	if b.Min <= 0 || b.Min > b.Max {
		_, under, ok := r.get(annotation.AccrualMinPenalty)
		if !ok {
			_, under, _ = r.get(annotation.AccrualMaxPenalty)
		}
		r.bad(under, fmt.Errorf("penalties from %v to %v: the least is above 0 and not above the most", b.Min, b.Max))
		b.Min, b.Max = accrualMin, accrualMax
	}
	return b
}

// rate reads the bound for successes; nil: it is switched off.
func (r *reader) rate() *catalog.Rate {
	t := &catalog.Rate{
		Threshold:   r.number(annotation.AccrualThreshold, rateThreshold, 1),
		Window:      r.duration(annotation.AccrualWindow, rateWindow),
		MinRequests: r.count(annotation.AccrualMinRequests, rateRequests, maxRateRequests),
	}
	if t.Threshold == 0 {
		return nil
	}
	if t.Window < minRateWindow {
		_, under, _ := r.get(annotation.AccrualWindow)
		r.bad(under, fmt.Errorf("a window of %v: the least is %v", t.Window, minRateWindow))
		t.Window = rateWindow
	}
	return t
}

// biaser reads what makes failures weigh more; nil: nothing does.
func (r *reader) biaser() *catalog.Penalty {
	if !r.boolean(annotation.PenalizeFailures) {
		return nil
	}
	return &catalog.Penalty{
		Time:          r.duration(annotation.BiaserPenalty, biaserPenalty),
		MaxRetryAfter: r.duration(annotation.BiaserMaxRetryAfter, biaserRetryAfter),
	}
}

// count reads a whole number from 0 to most.
func (r *reader) count(name string, missing, most uint32) uint32 {
	v, under, ok := r.get(name)
	if !ok {
		return missing
	}
	n, err := strconv.ParseUint(v, 10, 32)
	if err != nil || n > uint64(most) {
		r.bad(under, fmt.Errorf("%q is not a whole number from 0 to %d", v, most))
		return missing
	}
	return uint32(n)
}

// number reads a number from 0 to most.
func (r *reader) number(name string, missing, most float64) float64 {
	v, under, ok := r.get(name)
	if !ok {
		return missing
	}
	n, err := strconv.ParseFloat(v, 64)
	if err != nil || !(n >= 0 && n <= most) {
		r.bad(under, fmt.Errorf("%q is not a number from 0 to %v", v, most))
		return missing
	}
	return n
}

func (r *reader) boolean(name string) bool {
	v, under, ok := r.get(name)
	if !ok {
		return false
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		r.bad(under, fmt.Errorf("%q is neither true nor false", v))
	}
	return b
}
