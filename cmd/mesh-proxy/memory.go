package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// gcPercent trades a little CPU for memory: the live heap of an idle sidecar
	// is 1 MB, and Go's default would let it grow to 4 MB before collecting.
	gcPercent = 50
	// gcRoom is enough garbage for any heap: what is asked for on the request path
	// makes little, so that one which knows ten thousand endpoints need not be
	// half as large again. gcLeast keeps collecting large heaps cheap.
	gcRoom  = 4 << 20
	gcLeast = 20
	// gcStep is the change that is worth stopping the process for a moment.
	gcStep = 5
	// tendEvery is how often the collector is fitted to the heap, and pages of the
	// program that nothing used lately are given back.
	tendEvery = 5 * time.Second
)

// smallHeap tunes the runtime for a process of a few megabytes.
func smallHeap() { debug.SetGCPercent(gcPercent) }

// percentFor is how much larger than live a heap may become.
func percentFor(live uint64) int {
	return int(min(max(gcRoom*100/max(live, 1)/gcStep*gcStep, gcLeast), gcPercent)) //nolint:gosec // a percentage
}

// fitHeap keeps the room for garbage in proportion; now is the percentage that is
// set, and what is set afterwards is returned.
func fitHeap(now int) int {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		return now
	}
	next := percentFor(s[0].Value.Uint64())
	if next != now {
		debug.SetGCPercent(next)
	}
	return next
}

// tendMemory keeps the process small until ctx ends: it fits the collector to the
// heap, and gives pages of the program's own file back to the kernel. The kernel
// maps 64 KB around each page that is touched, so that start-up alone makes nearly
// all of the 10 MB of program resident, and nothing takes them away again. A page that is needed comes back from the page cache, which
// all sidecars of a node share, in a microsecond.
func tendMemory(ctx context.Context, log *slog.Logger) {
	t := time.NewTicker(tendEvery)
	defer t.Stop()
	percent, shed := gcPercent, true
	for {
		select {
		case <-t.C:
			percent = fitHeap(percent)
			if !shed {
				continue
			}
			if err := shedOnce(); err != nil {
				log.Debug("give pages back", "error", err)
				shed = false
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
