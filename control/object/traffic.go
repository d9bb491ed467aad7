package object

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// traffic reads the annotations of a Service about the traffic to it. What is
// malformed is ignored and named in the error; nil: nothing was asked for.
func traffic(all map[string]string) (*catalog.Traffic, error) {
	r := reader{all: all}
	t := &catalog.Traffic{Timeouts: r.timeouts(), Retry: r.retry(), Accrual: r.accrual(), Penalty: r.biaser()}
	if t.Equal(&catalog.Traffic{}) {
		t = nil
	}
	return t, errors.Join(r.errs...)
}

// reader looks annotations up by our name and Linkerd's, and collects what is
// wrong with them.
type reader struct {
	all  map[string]string
	errs []error
}

func (r *reader) timeouts() catalog.Timeouts {
	return catalog.Timeouts{
		Request:  r.duration(annotation.TimeoutRequest, 0),
		Response: r.duration(annotation.TimeoutResponse, 0),
		Idle:     r.duration(annotation.TimeoutIdle, 0),
	}
}

// get is an annotation's value, and the name that it was found under.
func (r *reader) get(name string) (value, under string, ok bool) {
	for _, n := range names(name) {
		if v, ok := r.all[n]; ok {
			return strings.TrimSpace(v), n, true
		}
	}
	return "", "", false
}

// names lists the names of an annotation, ours first. What Linkerd calls alpha
// has no alpha in ours.
func names(ours string) []string {
	prefix, rest, _ := strings.Cut(ours, ".tunmesh.io/")
	return []string{ours, prefix + ".linkerd.io/" + rest, prefix + ".alpha.linkerd.io/" + rest}
}

// bad notes an annotation that is ignored.
func (r *reader) bad(under string, err error) {
	r.errs = append(r.errs, fmt.Errorf("annotation %s, ignored: %w", under, err))
}

func (r *reader) duration(name string, missing time.Duration) time.Duration {
	v, under, ok := r.get(name)
	if !ok {
		return missing
	}
	d, err := duration(v)
	if err != nil {
		r.bad(under, err)
		return missing
	}
	return d
}

// units are those of Linkerd's annotations.
func unit(s string) time.Duration {
	switch s {
	case "ms":
		return time.Millisecond
	case "s":
		return time.Second
	case "m":
		return time.Minute
	case "h":
		return time.Hour
	case "d":
		return 24 * time.Hour
	}
	return 0
}

// duration reads a whole number with a unit: "400ms", "3s", "5m", "2h", "1d". "0"
// needs no unit.
func duration(s string) (time.Duration, error) {
	digits := strings.IndexFunc(s, func(c rune) bool { return c < '0' || c > '9' })
	if digits < 0 {
		digits = len(s)
	}
	n, err := strconv.ParseInt(s[:digits], 10, 64)
	u := unit(s[digits:])
	switch {
	case err == nil && n == 0 && (u > 0 || s[digits:] == ""):
		return 0, nil
	case err != nil || u == 0:
		return 0, fmt.Errorf("%q is not a duration: write a whole number and ms, s, m, h or d, as in 400ms", s)
	case n > math.MaxInt64/int64(u):
		return 0, fmt.Errorf("%q is too long a duration", s)
	}
	return time.Duration(n) * u, nil
}
