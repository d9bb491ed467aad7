package nettest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// containedEnv marks the process that Contain started, and all below it.
const containedEnv = "TUNMESH_TEST_CONTAINED"

// Contain runs f in a second process of this program and returns f's exit code.
// That process is the first of a PID namespace, and its mounts and /run/netns
// are its own: however it ends, killed or out of time, the processes that f
// started and the namespaces that it mounted end with it. A process of this
// program that f starts runs its own f at once. Without root f runs as it is.
func Contain(f func() int) int {
	if os.Geteuid() != 0 {
		return f()
	}
	switch os.Getenv(containedEnv) {
	case "":
		return contained()
	case "furnish":
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, "furnish the tests' namespaces:", err)
			return 1
		}
	}
	return f()
}

// contained runs this program again and waits. The thread stays: the kernel
// kills the child when the thread that started it ends.
func contained() int {
	runtime.LockOSThread()
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Args[0] = os.Args[0]
	c.Env = append(os.Environ(), containedEnv+"=furnish")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		Pdeathsig:  unix.SIGKILL,
	}
	// The program that asks for an end, or for stacks, means the one that works.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	if err := c.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "start in namespaces of its own:", err)
		return 1
	}
	go func() {
		for s := range signals {
			_ = c.Process.Signal(s)
		}
	}()
	err := c.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "in namespaces of its own:", err)
	return 1
}

func furnish() error {
	if os.Getpid() != 1 {
		return errors.New("not the first process of a PID namespace")
	}
	if err := os.Setenv(containedEnv, "inside"); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run/netns", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755"); err != nil {
		return fmt.Errorf("mount /run/netns: %w", err)
	}
	return nil
}
