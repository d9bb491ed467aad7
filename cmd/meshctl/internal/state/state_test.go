package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestNames(t *testing.T) {
	for _, good := range []string{"a", "default", "a-1", "x23456789012345678901234567890ab"} {
		if _, err := Named(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "A", "a/b", "..", "-a", "a-", "x234567890123456789012345678901234"} {
		if d, err := Named(bad); err == nil {
			t.Errorf("%q is %s", bad, d)
		}
	}
}

func TestClaim(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the state folder is root's")
	}
	d, err := Named(fmt.Sprintf("state-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := d.Claim()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Claim(); !errors.Is(err, ErrHeld) {
		t.Errorf("a second claim: %v", err)
	}
	if err := d.Remove(); !errors.Is(err, ErrHeld) {
		t.Errorf("the folder of one that is held was removed: %v", err)
	}
	if fi, err := os.Stat(string(d)); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("the folder is %v, %v", fi, err)
	}
	left := filepath.Join(d.Pods(), "left.json")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// The holder dies: its lock goes with it, what it left goes at the next claim.
	if err := lock.File.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := d.Claim()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("a new holder finds the pods of the last")
	}
	if err := again.File.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(string(d)); err == nil {
		t.Error("the folder is left")
	}
	_ = RemoveRoot()
}
