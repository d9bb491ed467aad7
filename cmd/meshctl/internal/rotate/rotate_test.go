package rotate

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestBound(t *testing.T) {
	p := filepath.Join(t.TempDir(), "sub", "log")
	l, err := Open(p, 100)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		if _, err := l.Write(bytes.Repeat([]byte{byte('a' + i%26)}, 30)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{p, p + Old} {
		if fi, err := os.Stat(f); err != nil || fi.Size() > 100 || fi.Size() == 0 {
			t.Errorf("%s: %v, %v", f, fi, err)
		}
	}
	if got := Tail(p, 5); got != "ddddd" {
		t.Errorf("the last bytes are %q", got)
	}
	if n, err := l.Write([]byte("x")); n != 1 || err != nil {
		t.Errorf("a write after the end: %d, %v", n, err)
	}
	if l, err = Open(p, 100); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, _ = l.Write([]byte("e"))
	if got := Tail(p, 3); got != "dde" {
		t.Errorf("a log that is continued ends with %q", got)
	}
}
