package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// way is set in the environment of a program that gives way.
const way = "BESIEGER_GIVES_WAY"

// giveWay makes this program give way to all others, and leaves them a processor if
// there are two. A thread's policy is its children's: so the program starts once
// more.
func giveWay() error {
	if os.Getenv(way) != "" {
		return nil
	}
	runtime.LockOSThread()
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0); err != nil {
		return fmt.Errorf("give way to others: %w", err)
	}
	// Where the kernel shares the processor among sessions (sched(7), autogroup),
	// policies count within one only: this gets one of its own.
	if _, err := unix.Setsid(); err != nil {
		return fmt.Errorf("begin a session: %w", err)
	}
	if err := lastSession(); err != nil {
		return fmt.Errorf("give way to other sessions: %w", err)
	}
	if n := runtime.NumCPU(); n > 1 {
		var last unix.CPUSet
		last.Set(n - 1)
		if err := unix.SchedSetaffinity(0, &last); err != nil {
			return fmt.Errorf("leave a processor to others: %w", err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return unix.Exec(self, os.Args, append(os.Environ(), way+"=1"))
}

// lastSession makes other sessions go first, where the kernel knows of sessions. It
// takes such wishes ten times a second, of all processes together.
func lastSession() error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := os.WriteFile("/proc/self/autogroup", []byte("19"), 0o644) //nolint:gosec // it is there, or not
		if !errors.Is(err, unix.EAGAIN) || time.Now().After(end) {
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return err
		}
	}
}
