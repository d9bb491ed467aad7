package resilience

import (
	"strconv"
	"strings"
	"time"
)

// RetryAfter reads the value of an HTTP Retry-After field: seconds, or a date
// (RFC 9110, section 10.2.3; the obsolete forms of dates are not read). ok is
// false when it says nothing.
func RetryAfter(value string, now time.Time) (wait time.Duration, ok bool) {
	value = strings.Trim(value, " \t")
	if value == "" {
		return 0, false
	}
	if value[0] >= '0' && value[0] <= '9' {
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return 0, false
		}
		return time.Duration(n) * time.Second, true //nolint:gosec // 31 bits
	}
	t, err := time.Parse("Mon, 02 Jan 2006 15:04:05 GMT", value)
	if err != nil {
		return 0, false
	}
	return max(t.Sub(now), 0), true
}

// Never is a wait that does not end.
const Never = time.Duration(1<<63 - 1)

// Pushback reads the value of gRPC's grpc-retry-pushback-ms: milliseconds; a
// negative number, or what is none, asks for no retry at all.
func Pushback(value string) time.Duration {
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return Never
	}
	return time.Duration(n) * time.Millisecond //nolint:gosec // 31 bits
}
