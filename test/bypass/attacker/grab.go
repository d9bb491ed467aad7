package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// grab robs a process of which only the number is known. An app never sees the
// sidecar's; the test starts this in the app's user namespace, with all of its
// capabilities there, but where the sidecar is in sight.
func grab(t target) {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", t.pid), os.O_RDWR, 0)
	tried("open the memory", err)
	if err == nil {
		got("the memory of process %d", t.pid)
		mem.Close()
	}
	for _, what := range []string{"environ", "maps", "auxv"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", t.pid, what))
		tried("read "+what, err)
		if err == nil {
			got("%d bytes of %s", len(b), what)
		}
	}
	_, err = os.ReadDir(fmt.Sprintf("/proc/%d/fd", t.pid))
	tried("list the descriptors", err)
	if err == nil {
		got("the list of descriptors of process %d", t.pid)
	}
	pidfd, err := unix.PidfdOpen(t.pid, 0)
	tried("pidfd_open", err)
	if err == nil {
		rob(pidfd, fmt.Sprintf("process %d", t.pid))
		unix.Close(pidfd)
	}
	runtime.LockOSThread()
	err = unix.PtraceSeize(t.pid)
	tried("ptrace", err)
	if err == nil {
		got("ptrace of process %d", t.pid)
		_ = unix.PtraceDetach(t.pid)
	}
	runtime.UnlockOSThread()
	local := make([]byte, 8)
	_, err = unix.ProcessVMReadv(t.pid, []unix.Iovec{{Base: &local[0], Len: 8}}, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0)
	tried("process_vm_readv", err)
	if err == nil || errors.Is(err, unix.EFAULT) {
		got("process_vm_readv of process %d", t.pid)
	}
}

// ioctls of a pidfd (linux/pidfd.h) that open a namespace of its process.
const (
	pidfdGetMnt  = 0xff03
	pidfdGetNet  = 0xff04
	pidfdGetPID  = 0xff05
	pidfdGetUser = 0xff09
)

// rob takes descriptors and namespaces by a pidfd.
func rob(pidfd int, whose string) {
	taken, refused := 0, error(nil)
	for n := range 256 {
		dup, err := unix.PidfdGetfd(pidfd, n, 0)
		if err != nil {
			if !errors.Is(err, unix.EBADF) {
				refused = err
			}
			continue
		}
		taken++
		unix.Close(dup)
	}
	tried("pidfd_getfd of "+whose, refused)
	if taken > 0 {
		got("%d descriptors of %s", taken, whose)
	}
	for name, req := range map[string]uint{"mount": pidfdGetMnt, "network": pidfdGetNet, "PID": pidfdGetPID, "user": pidfdGetUser} {
		fd, err := unix.IoctlRetInt(pidfd, req)
		tried("the "+name+" namespace of "+whose+" by ioctl", err)
		if err == nil {
			got("the %s namespace of %s", name, whose)
			unix.Close(fd)
		}
	}
	for name, flag := range map[string]int{"mount": unix.CLONE_NEWNS, "network": unix.CLONE_NEWNET, "PID": unix.CLONE_NEWPID, "IPC": unix.CLONE_NEWIPC} {
		done := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				done <- err
				return
			}
			done <- unix.Setns(pidfd, flag)
		}()
		err := <-done
		tried("enter the "+name+" namespace of "+whose, err)
		if err == nil {
			got("into the %s namespace of %s", name, whose)
		}
	}
}
