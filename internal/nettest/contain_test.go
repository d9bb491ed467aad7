package nettest_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/nettest"
)

// left says that this test binary is a program that leaves a mount and a
// process, and ends as the value tells.
const left = "NETTEST_LEAVES"

func TestMain(m *testing.M) {
	if how := os.Getenv(left); how != "" {
		os.Exit(nettest.Contain(func() int { return leave(how) }))
	}
	os.Exit(m.Run())
}

// leave mounts something at a folder and starts a process, whose working folder
// it is, and cleans neither up.
func leave(how string) int {
	how, dir, _ := strings.Cut(how, " ")
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		fmt.Println(err)
		return 1
	}
	c := exec.Command("sleep", "1000")
	c.Dir = dir
	if err := c.Start(); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("made", os.Getpid())
	switch how {
	case "exits":
		return 7
	case "panics":
		panic("out of time")
	}
	select {}
}

// However a contained program ends, its mounts and processes end with it.
func TestContain(t *testing.T) {
	nettest.NeedRoot(t)
	for _, how := range []string{"exits", "panics", "killed"} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			c := exec.Command("/proc/self/exe")
			c.Env = append(os.Environ(), left+"="+how+" "+dir)
			out, err := c.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			// Should this test fail, it leaves nothing either.
			defer func() { _ = c.Process.Kill() }()
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil || line != "made 1\n" {
				t.Fatalf("%q, %v: want the first process of a namespace", line, err)
			}
			if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), dir) {
				t.Errorf("its mount is the machine's: %v", err)
			}
			if how == "killed" {
				if len(at(t, dir)) != 1 {
					t.Error("its process is not seen: this test could not fail")
				}
				_ = c.Process.Kill()
			}
			_ = c.Wait()
			want := map[string]int{"exits": 7, "panics": 2, "killed": -1}[how]
			if got := c.ProcessState.ExitCode(); got != want {
				t.Errorf("exit code %d, want %d", got, want)
			}
			for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				pids := at(t, dir)
				if len(pids) == 0 {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("processes %v are left", pids)
				}
			}
		})
	}
}

// at lists the processes whose working folder is dir, in whatever namespace.
func at(t *testing.T, dir string) (pids []string) {
	t.Helper()
	all, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if to, err := os.Readlink("/proc/" + p.Name() + "/cwd"); err == nil && to == dir {
			pids = append(pids, p.Name())
		}
	}
	return pids
}
