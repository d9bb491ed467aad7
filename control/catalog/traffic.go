package catalog

import (
	"reflect"
	"time"
)

// Traffic is what a Service's annotations ask of those who call it. It is
// immutable; what is zero was not asked for.
type Traffic struct {
	Timeouts Timeouts
}

// Timeouts of requests to a Service; 0 is none.
type Timeouts struct {
	// Request bounds a request with its response and all its retries.
	Request time.Duration
	// Response bounds the time from the request's end to the response's.
	Response time.Duration
	// Idle bounds the time in which nothing moves in either direction.
	Idle time.Duration
}

// Equal compares what is asked for; nil asks for nothing.
func (t *Traffic) Equal(o *Traffic) bool { return t == o || reflect.DeepEqual(t, o) }
