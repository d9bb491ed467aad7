package handover

import (
	"errors"
	"syscall"
)

// isRefused: on an abstract address ECONNREFUSED is what a missing listener
// gives, and ENOENT what a missing path does.
func isRefused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}
