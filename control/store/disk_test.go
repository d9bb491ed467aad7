package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// small is a folder with a disk of its own.
func small(t *testing.T, bytes int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a small file system")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill leaves that many bytes of a disk, at most, and returns what gives them back.
func fill(t *testing.T, dir string, left int64) (empty func()) {
	t.Helper()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "filler")
	if err := os.WriteFile(name, make([]byte, max(0, int64(fs.Bavail)*fs.Bsize-left)), 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFullDisk: a disk that fills keeps samples from being kept, and nothing else;
// when there is room again they are.
func TestFullDisk(t *testing.T) {
	dir := small(t, 16<<20)
	s := open(t, Config{Dir: dir, MaxSeries: 5000})
	clock := time.Now()
	s.disk.now = func() time.Time { return clock }
	insert(t, s, clock.Add(-20*time.Second), counter, "response_total 1")
	empty := fill(t, dir, 1<<20)
	clock = clock.Add(time.Second)
	err := s.Insert("web-1", web, clock.Add(-10*time.Second), []byte("response_total 5\n"))
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(s.Problem(), "the disk is full") {
		t.Fatalf("%v, %q", err, s.Problem())
	}
	s.Lost("web-2", web, clock)
	s.Forget("web-2", clock)
	expect(t, s, "response_total", clock, 1)
	empty()
	clock = clock.Add(time.Second)
	insert(t, s, clock, counter, "response_total 7", "g 1")
	if p := s.Problem(); p != "" {
		t.Error(p)
	}
	expect(t, s, "response_total", clock, 7)
	// What was counted meanwhile is not known to have begun at 0.
	expect(t, s, "count(count_over_time(g[1m]) == 1)", clock, 1)
}

// TestDiskIsFullToTheLastByte: the log cannot be written either.
func TestDiskIsFullToTheLastByte(t *testing.T) {
	dir := small(t, 16<<20)
	s := open(t, Config{Dir: dir, MaxSeries: 5000})
	s.disk.reserve = 0
	now := time.Now()
	insert(t, s, now.Add(-time.Minute), "g 1")
	empty := fill(t, dir, 0)
	var page strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&page, "h{n=\"%d\"} %d\n", i, i*7919)
	}
	var err error
	for i := range 20 {
		if err = s.Insert("web-2", web, now.Add(time.Duration(i-40)*time.Second), []byte(page.String())); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(s.Problem(), "the disk is full") {
		t.Fatalf("%v, %q", err, s.Problem())
	}
	empty()
	if err := s.Insert("web-2", web, now, []byte(page.String())); err != nil || s.Problem() != "" {
		t.Fatalf("%v, %q", err, s.Problem())
	}
	expect(t, s, "count(h)", now, 2000)
}

// TestDiskIsFullAtStart, or cannot be written: the store says so and what to do.
func TestDiskIsFullAtStart(t *testing.T) {
	dir := small(t, 16<<20)
	empty := fill(t, dir, 64<<10)
	if _, err := Open(Config{Dir: dir, MaxSeries: 5000}); err == nil || !strings.Contains(err.Error(), "the disk is full") || !strings.Contains(err.Error(), dir) {
		t.Errorf("full: %v", err)
	}
	empty()
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Dir: dir, MaxSeries: 5000}); err == nil || !strings.Contains(err.Error(), "must be writable") || !strings.Contains(err.Error(), dir) {
		t.Errorf("read-only: %v", err)
	}
}

// filled makes a store with blocks, samples moved from memory and a log, and returns
// its folder.
func filled(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	s, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	const pages = 12 * 60
	end := time.Now().Truncate(blockRange)
	for i := range pages {
		at := end.Add(time.Duration(i-pages) * 15 * time.Second)
		insert(t, s, at, counter, fmt.Sprintf("response_total %d", i), fmt.Sprintf("g %d", i%7))
		if i == 200 || i == 440 { // what comes after the second is in memory, and moved
			if err := s.db.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.db.ForceHeadMMap()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestEveryFileDamaged: whichever of its files is cut short or overwritten, the store
// opens and keeps what comes; if it cannot, what was there is aside.
func TestEveryFileDamaged(t *testing.T) {
	full := filled(t)
	var names []string
	for _, pattern := range []string{"wal/[0-9]*", "chunks_head/*", "0*/index", "0*/meta.json", "0*/tombstones", "0*/chunks/*"} {
		list, err := filepath.Glob(filepath.Join(full, "data", pattern))
		if err != nil || len(list) == 0 {
			t.Fatalf("%s: %q, %v", pattern, list, err)
		}
		names = append(names, list[0])
	}
	for _, name := range names {
		name, err := filepath.Rel(full, name)
		if err != nil {
			t.Fatal(err)
		}
		for how, damage := range map[string]func([]byte) []byte{
			"empty":     func([]byte) []byte { return nil },
			"cut short": func(b []byte) []byte { return b[:len(b)/2] },
			"overwritten": func(b []byte) []byte {
				return slices.Concat(b[:len(b)/3], []byte("\xff\x00damage\xff"), b[min(len(b), len(b)/3+8):])
			},
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				dir := t.TempDir()
				if err := os.CopyFS(dir, os.DirFS(full)); err != nil {
					t.Fatal(err)
				}
				file := filepath.Join(dir, name)
				raw, err := os.ReadFile(file)
				if err == nil {
					err = os.WriteFile(file, damage(raw), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
				s := open(t, Config{Dir: dir})
				now := time.Now()
				insert(t, s, now, "new 1")
				expect(t, s, "new", now, 1)
				// It may say that it cannot read what is damaged; it may not end.
				if _, err := s.Instant(t.Context(), "sum(increase(response_total[3h]))", now); err != nil {
					t.Logf("asked for all: %v", err)
				}
			})
		}
	}
}
