package endurance_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// arrival is a request that reached a server's program.
type arrival struct {
	pod string
	at  int64 // Unix ns
	act string
}

// journal follows what the servers write of each request before they do
// anything about it. Their output goes through a pipe, so that it is whole
// however they end.
type journal struct {
	dir  string
	keep string // only requests whose number begins so
	seen map[string]*tail

	arrivals map[string][]arrival
	cuts     []event
	lines    int
}

// tail is a log that is being followed over its rotations.
type tail struct {
	pod  string
	path string
	f    *os.File
	rest []byte
}

func newJournal(dir, keep string) *journal {
	return &journal{dir: dir, keep: keep, seen: map[string]*tail{}, arrivals: map[string][]arrival{}}
}

// follow reads until stop is closed, and then what is left.
func (j *journal) follow(stop <-chan struct{}) {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for last := false; !last; {
		select {
		case <-t.C:
		case <-stop:
			last = true
		}
		j.read()
	}
	for _, l := range j.seen {
		if l.f != nil {
			_ = l.f.Close()
		}
	}
}

// read takes what the logs have more.
func (j *journal) read() {
	paths, _ := filepath.Glob(filepath.Join(j.dir, "*", "app.log"))
	for _, p := range paths {
		if j.seen[p] == nil {
			parts := strings.Split(filepath.Base(filepath.Dir(p)), "_") // namespace, pod, uid
			j.seen[p] = &tail{pod: parts[1], path: p}
		}
	}
	for _, l := range j.seen {
		l.read(j.line)
	}
}

// read calls line with each whole line that is new.
func (l *tail) read(line func(pod string, line []byte)) {
	for {
		if l.f == nil {
			f, err := os.Open(l.path)
			if err != nil {
				return // the pod is gone, or its log is just being rotated
			}
			l.f = f
		}
		// Whether it was rotated is asked first: then it is read to its real end.
		rotated := l.rotated()
		b, err := io.ReadAll(l.f)
		if err != nil {
			return
		}
		l.rest = append(l.rest, b...)
		for {
			one, more, ok := bytes.Cut(l.rest, []byte("\n"))
			if !ok {
				break
			}
			line(l.pod, one)
			l.rest = more
		}
		if !rotated {
			return
		}
		_ = l.f.Close()
		l.f = nil
	}
}

func (l *tail) rotated() bool {
	mine, err := l.f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Stat(l.path)
	return err == nil && !os.SameFile(mine, now)
}

func (j *journal) line(pod string, line []byte) {
	var a arrival
	var id string
	if _, err := fmt.Sscan(string(line), &a.act, &id, &a.at); err != nil {
		return // not of the journal
	}
	a.pod = pod
	j.lines++
	switch {
	case a.act == "born":
	case a.act == "cut":
		at := time.Unix(0, a.at)
		j.cuts = append(j.cuts, event{what: "a connection of calls broken", pod: pod, from: at, until: at.Add(time.Second)})
	case strings.HasPrefix(id, j.keep):
		j.arrivals[id] = append(j.arrivals[id], a)
	}
}

// TestJournal: no line is lost or read twice when a log is rotated, and when its
// folder goes away.
func TestJournal(t *testing.T) {
	dir := t.TempDir()
	logs := filepath.Join(dir, "default_v1_uid")
	if err := os.Mkdir(logs, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(logs, "app.log")
	n := 0
	write := func(lines int, cut string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for range lines {
			fmt.Fprintf(f, "serve p%d %d\nserve a%d 7\n", n, n, n)
			n++
		}
		fmt.Fprint(f, cut)
	}
	j := newJournal(dir, "p")
	write(3, "")
	j.read()
	write(2, "ser") // a line that is not whole yet
	j.read()
	write(0, "ve p100 7\n")
	write(2, "")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write(4, "cut p1 5\n")
	j.read()
	write(1, "")
	if err := os.RemoveAll(logs); err != nil {
		t.Fatal(err)
	}
	j.read()
	if len(j.arrivals) != n+1 || len(j.cuts) != 1 || j.cuts[0].pod != "v1" {
		t.Errorf("%d of %d requests, cuts %v", len(j.arrivals), n+1, j.cuts)
	}
	for id, a := range j.arrivals {
		if len(a) != 1 || a[0].pod != "v1" {
			t.Errorf("%s: %v", id, a)
		}
	}
}
