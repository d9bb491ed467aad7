package proc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Counter counts an event in all threads of some processes, those they make
// later included.
type Counter struct{ fds []int }

// Instructions counts the instructions that processes retire, in the kernel as
// well. Many virtual machines have no counter for it.
func Instructions(pids ...int) (*Counter, error) {
	return count(unix.PERF_TYPE_HARDWARE, unix.PERF_COUNT_HW_INSTRUCTIONS, pids...)
}

func count(kind uint32, event uint64, pids ...int) (*Counter, error) {
	attr := unix.PerfEventAttr{Type: kind, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})), Config: event, Bits: unix.PerfBitInherit}
	c := &Counter{}
	for _, pid := range pids {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("count events of process %d: %w", pid, err)
		}
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				continue
			}
			fd, err := unix.PerfEventOpen(&attr, tid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
			if errors.Is(err, unix.ESRCH) { // it ended
				continue
			}
			if err != nil {
				c.Close()
				return nil, fmt.Errorf("count events of thread %d: %w", tid, err)
			}
			c.fds = append(c.fds, fd)
		}
	}
	return c, nil
}

// Read is how many there were so far.
func (c *Counter) Read() (uint64, error) {
	var sum uint64
	var b [8]byte
	for _, fd := range c.fds {
		if _, err := unix.Read(fd, b[:]); err != nil {
			return 0, fmt.Errorf("read a counter of events: %w", err)
		}
		sum += binary.NativeEndian.Uint64(b[:])
	}
	return sum, nil
}

// Close ends counting.
func (c *Counter) Close() {
	for _, fd := range c.fds {
		_ = unix.Close(fd)
	}
	c.fds = nil
}

// HardwareCounters says whether this machine counts instructions, and if not, why.
func HardwareCounters() error {
	c, err := Instructions(os.Getpid())
	if err != nil {
		return fmt.Errorf("no hardware counters on this machine: %w", err)
	}
	c.Close()
	return nil
}
