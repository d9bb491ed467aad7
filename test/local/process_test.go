package local_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

func kill(t *testing.T, pid int) {
	t.Helper()
	signal(t, pid, syscall.SIGKILL)
}

func signal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("no process to signal: %d", pid)
	}
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatal(err)
	}
}

// parentOf a container's first process is its pod's first process.
func parentOf(t *testing.T, pid int) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	parent := 0
	for line := range strings.Lines(string(raw)) {
		_, _ = fmt.Sscanf(line, "PPid: %d", &parent)
	}
	if parent <= 1 {
		t.Fatalf("process %d has parent %d", pid, parent)
	}
	return parent
}
