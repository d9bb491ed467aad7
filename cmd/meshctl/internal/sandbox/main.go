package sandbox

import (
	"fmt"
	"os"
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
	var err error
	switch args[1] {
	case cmdBase:
		err = mountEmpty(args[2])
	case cmdPod:
		err = supervise(args[2], args[3])
	case cmdContainer:
		runContainer() // does not return
	default:
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[1], err)
		os.Exit(1)
	}
	os.Exit(0)
}
