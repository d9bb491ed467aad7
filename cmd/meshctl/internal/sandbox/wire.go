package sandbox

import (
	"os"
	"syscall"
)

// Operations that the holder asks of a supervisor. Answers carry the request's
// ID; "exited" comes by itself.
const (
	opVolume = "volume" // Volume → nothing
	opEtc    = "etc"    // etcFiles → nothing
	opStart  = "start"  // Container + stdout, stderr → started + PID namespace
	opGo     = "go"     // procRef → nothing; Err when the program could not be run
	opExec   = "exec"   // execRequest + stdin, stdout, stderr (none with TTY) → started (+ terminal)
	opSignal = "signal" // signalRequest → nothing
	opDial   = "dial"   // dialRequest → nothing + connection
	opExited = "exited" // exited
)

type started struct{ Proc uint64 }

type procRef struct{ Proc uint64 }

type signalRequest struct {
	Proc   uint64
	Signal int
}

type execRequest struct {
	Proc uint64 // the container's
	Exec
}

type dialRequest struct{ Port uint16 }

type exited struct {
	Proc uint64
	Exit
}

type etcFiles struct{ Hosts, Resolv, Hostname []byte }

// exitOf reads how a process ended.
func exitOf(ps *os.ProcessState) Exit {
	if ps == nil {
		return Exit{Code: -1}
	}
	if ws, ok := ps.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return Exit{Code: 128 + int(ws.Signal()), Signal: int(ws.Signal())}
	}
	return Exit{Code: ps.ExitCode()}
}
