package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"

	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// gcPercent trades a little CPU for memory: the live heap of an idle sidecar
	// is 1 MB, and Go's default would let it grow to 4 MB before collecting.
	gcPercent = 50
	// shedEvery is how often pages of the program that nothing used lately are
	// given back.
	shedEvery = 5 * time.Second
)

// smallHeap tunes the runtime for a process of a few megabytes.
func smallHeap() { debug.SetGCPercent(gcPercent) }

// shedPages gives pages of the program's own file back to the kernel, until ctx
// ends. The kernel maps 64 KB around each page that is touched, so that start-up
// alone makes nearly all of the 10 MB of program resident, and nothing takes
// them away again. A page that is needed comes back from the page cache, which
// all sidecars of a node share, in a microsecond.
func shedPages(ctx context.Context, log *slog.Logger) {
	t := time.NewTicker(shedEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err := shedOnce(); err != nil {
				log.Debug("give pages back", "error", err)
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func shedOnce() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the program's file: %w", err)
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("read the memory map: %w", err)
	}
	defer f.Close()
	for _, r := range programRanges(f, exe) {
		if _, _, e := unix.Syscall(unix.SYS_MADVISE, r[0], r[1]-r[0], unix.MADV_DONTNEED); e != 0 {
			return fmt.Errorf("give back %#x-%#x: %w", r[0], r[1], e)
		}
	}
	return nil
}

// programRanges are the address ranges that map exe and can't be written:
// giving those back loses nothing.
func programRanges(maps io.Reader, exe string) [][2]uintptr {
	var out [][2]uintptr
	s := bufio.NewScanner(maps)
	for s.Scan() {
		// start-end perms offset dev inode path
		fields := strings.Fields(s.Text())
		if len(fields) < 6 || fields[5] != exe || len(fields[1]) < 4 || fields[1][1] != '-' || fields[1][3] != 'p' {
			continue
		}
		var r [2]uintptr
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &r[0], &r[1]); err == nil && r[0] < r[1] {
			out = append(out, r)
		}
	}
	return out
}
