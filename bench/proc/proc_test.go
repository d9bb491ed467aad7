package proc_test

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/bench/proc"
)

// TestStopEndsDescendants: a program that has left workers behind is stopped
// with them, and whoever stops it does not wait for their pipe.
func TestStopEndsDescendants(t *testing.T) {
	p, err := proc.Run(proc.Spec{Path: "/bin/sh", Args: []string{"-c", "sleep 60 & echo $!; exec sleep 60"}, Silent: true})
	if err != nil {
		t.Fatal(err)
	}
	var tree []int
	for end := time.Now().Add(10 * time.Second); len(tree) < 2 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		tree = proc.Tree(p.PID())
	}
	if len(tree) != 2 {
		t.Fatalf("the tree is %v, not two processes: %s", tree, p.Says())
	}
	began := time.Now()
	p.Stop()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", tree[1]))
		if err != nil || len(raw) == 0 {
			return // gone, or a zombie that init has yet to fetch
		}
		if time.Now().After(end) {
			t.Fatalf("%q still runs", raw)
		}
	}
}

func TestCPU(t *testing.T) {
	before := proc.CPU(os.Getpid())
	for end := time.Now().Add(10 * time.Second); proc.CPU(os.Getpid())-before < 3*proc.Tick; {
		if time.Now().After(end) {
			t.Fatal("spinning is not accounted")
		}
	}
	if m, err := proc.Machine(); err != nil || m <= 0 {
		t.Errorf("machine: %v, %v", m, err)
	}
	if r, a := proc.RSS(os.Getpid()); r <= 0 || a <= 0 || a > r {
		t.Errorf("memory: %d, of it anonymous %d", r, a)
	}
}

func TestStopped(t *testing.T) {
	p, err := proc.Run(proc.Spec{Path: "/bin/sleep", Args: []string{"60"}, Silent: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	if proc.Stopped(p.PID()) {
		t.Error("it was not told to stop")
	}
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); !proc.Stopped(p.PID()); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not stop")
		}
	}
}
