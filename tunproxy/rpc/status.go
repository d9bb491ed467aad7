package rpc

import (
	"context"
	"errors"
	"fmt"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// Code is a gRPC status code.
type Code uint32

// The codes of gRPC's documentation, "Status codes and their use in gRPC".
const (
	OK Code = iota
	Canceled
	Unknown
	InvalidArgument
	DeadlineExceeded
	NotFound
	AlreadyExists
	PermissionDenied
	ResourceExhausted
	FailedPrecondition
	Aborted
	OutOfRange
	Unimplemented
	Internal
	Unavailable
	DataLoss
	Unauthenticated
)

var codeNames = [...]string{ //nolint:gochecknoglobals // a table
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
	"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("CODE_%d", uint32(c))
}

// Status is the error of a call that the server, or the connection, ended.
type Status struct {
	Code    Code
	Message string
	// Cause is the connection's error, when that ended the call.
	Cause error
}

func (s *Status) Error() string {
	switch {
	case s.Message == "" && s.Cause != nil:
		return s.Code.String() + ": " + s.Cause.Error()
	case s.Message == "":
		return s.Code.String()
	}
	return s.Code.String() + ": " + s.Message
}

func (s *Status) Unwrap() error { return s.Cause }

// Is makes a server that noticed a deadline first, or a cancellation, look like
// the context that it was of.
func (s *Status) Is(target error) bool {
	return s.Code == DeadlineExceeded && target == context.DeadlineExceeded || s.Code == Canceled && target == context.Canceled
}

// CodeOf is the code of a call's error; OK for nil.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	var s *Status
	if errors.As(err, &s) {
		return s.Code
	}
	return Unknown
}

// ofHTTP is the code of a response that is no gRPC ("HTTP to gRPC Status Code
// Mapping" in gRPC's documentation).
func ofHTTP(status int) Code {
	switch status {
	case 400:
		return Internal
	case 401:
		return Unauthenticated
	case 403:
		return PermissionDenied
	case 404:
		return Unimplemented
	case 429, 502, 503, 504:
		return Unavailable
	}
	return Unknown
}

// ofReset is the code of a stream that was reset (gRPC's HTTP/2 protocol, "Errors").
func ofReset(code message.Code) Code {
	switch code {
	case message.RefusedStream:
		return Unavailable
	case message.Cancel:
		return Canceled
	case message.EnhanceYourCalm:
		return ResourceExhausted
	case message.InadequateSecurity:
		return PermissionDenied
	}
	return Internal
}
