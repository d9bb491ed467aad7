package object

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

const (
	// maxRetries is the largest limit; what needs more is not helped by retries.
	maxRetries = 100
	// Linkerd's defaults: one retry; its pauses; and its budget, of the time when
	// it had one.
	defaultRetries       = 1
	retryBackoffMin      = 25 * time.Millisecond
	retryBackoffMax      = 250 * time.Millisecond
	retryBudgetPercent   = 20
	retryBudgetPerSecond = 10
	retryBudgetWindow    = 10 * time.Second
)

// retry reads what says that requests are sent again; nil: nothing does.
func (r *reader) retry() *catalog.Retry {
	on := false
	for _, name := range []string{annotation.RetryHTTP, annotation.RetryGRPC, annotation.RetryLimit, annotation.RetryTimeout} {
		_, _, ok := r.get(name)
		on = on || ok
	}
	budget := r.budget()
	before := len(r.errs)
	t := &catalog.Retry{
		Statuses: list(r, annotation.RetryHTTP, statuses),
		Codes:    list(r, annotation.RetryGRPC, code),
		Limit:    r.limit(),
		Timeout:  r.duration(annotation.RetryTimeout, 0),
		Backoff:  catalog.Backoff{Min: retryBackoffMin, Max: retryBackoffMax, Jitter: 1},
		Budget:   budget,
	}
	slices.Sort(t.Codes)
	t.Codes = slices.Compact(t.Codes)
	if !on || len(r.errs) > before && len(t.Statuses)+len(t.Codes) == 0 && t.Timeout == 0 {
		return nil // nothing that was understood asks for it
	}
	return t
}

func (r *reader) limit() uint32 {
	v, under, ok := r.get(annotation.RetryLimit)
	if !ok {
		return defaultRetries
	}
	n, err := strconv.ParseUint(v, 10, 32)
	if err != nil || n < 1 || n > maxRetries {
		r.bad(under, fmt.Errorf("%q is not a number of retries from 1 to %d", v, maxRetries))
		return defaultRetries
	}
	return uint32(n)
}

func (r *reader) budget() *catalog.Budget {
	b := &catalog.Budget{Percent: retryBudgetPercent, PerSecond: retryBudgetPerSecond, Window: retryBudgetWindow}
	v, under, ok := r.get(annotation.RetryBudget)
	switch {
	case !ok:
		return b
	case v == "none":
		return nil
	}
	digits, found := strings.CutSuffix(v, "%")
	n, err := strconv.ParseUint(digits, 10, 32)
	if !found || err != nil || n > 1000 {
		r.bad(under, fmt.Errorf("%q is not a share of the requests: write 20%%, at most 1000%%, or none", v))
		return b
	}
	b.Percent = uint32(n)
	return b
}

// list reads a comma-separated list, whole or not at all.
func list[T any](r *reader, name string, item func(string) (T, error)) []T {
	v, under, ok := r.get(name)
	if !ok {
		return nil
	}
	var all []T
	for s := range strings.SplitSeq(v, ",") {
		one, err := item(strings.ToLower(strings.TrimSpace(s)))
		if err != nil {
			r.bad(under, err)
			return nil
		}
		all = append(all, one)
	}
	return all
}

// statuses reads one condition of HTTP.
func statuses(s string) (catalog.StatusRange, error) {
	switch s {
	case "5xx":
		return catalog.StatusRange{First: 500, Last: 599}, nil
	case "gateway-error":
		return catalog.StatusRange{First: 502, Last: 504}, nil
	}
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	a, aerr := strconv.ParseUint(first, 10, 32)
	b, berr := strconv.ParseUint(last, 10, 32)
	if aerr != nil || berr != nil || a < 100 || b > 599 || a > b {
		return catalog.StatusRange{}, fmt.Errorf("%q is not a condition: write 5xx, gateway-error, a status from 100 to 599, or a range such as 500-504", s)
	}
	return catalog.StatusRange{First: uint32(a), Last: uint32(b)}, nil
}

// code reads one condition of gRPC.
func code(s string) (uint32, error) {
	switch s {
	case "cancelled":
		return 1, nil
	case "deadline-exceeded":
		return 4, nil
	case "resource-exhausted":
		return 8, nil
	case "internal":
		return 13, nil
	case "unavailable":
		return 14, nil
	}
	return 0, fmt.Errorf("%q is not a condition: write cancelled, deadline-exceeded, internal, resource-exhausted or unavailable", s)
}
