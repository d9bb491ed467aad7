package endurance_test

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// A process that was killed and that nobody has taken note of has ended, too.
func TestEnded(t *testing.T) {
	if ended(os.Getpid()) {
		t.Error("this one has not")
	}
	cmd := exec.Command("sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	if ended(pid) {
		t.Error("it has only begun")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); !ended(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it was killed and has not ended")
		}
	}
	_ = cmd.Wait() // it was killed
	if !ended(pid) {
		t.Error("it is gone and has not ended")
	}
}
