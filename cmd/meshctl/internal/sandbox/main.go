package sandbox

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Commands of the program itself that this package starts; never typed.
const (
	cmdBase      = "__sandbox-base"
	cmdPod       = "__sandbox-pod"
	cmdContainer = "__sandbox-container"
)

// Main runs this package's part and ends the process when args (os.Args) call
// for it; else it returns at once.
func Main(args []string) {
	if len(args) < 2 {
		return
	}
	var part func() error
	switch args[1] {
	case cmdBase:
		part = func() error { return mountEmpty(args[2]) }
	case cmdPod:
		part = func() error { return supervise(args[2], args[3]) }
	case cmdContainer:
		part = runContainer // does not return
	default:
		return
	}
	// Nothing that was inherited by accident goes further, to a container least.
	err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		err = part()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[1], err)
		os.Exit(1)
	}
	os.Exit(0)
}
