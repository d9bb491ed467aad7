package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// fitEvery is how often the collector is fitted to the heap.
	fitEvery = time.Second
	// tendEvery is how often pages of the program that nothing used lately are given
	// back. The collector alone touches 2 MB of them each time it runs.
	tendEvery = 2 * time.Second
)

// tendMemory keeps the process small until ctx ends: it fits the collector to the
// heap, and gives pages of the program's own file back to the kernel. The kernel
// maps 64 KB around each page that is touched, so that start-up alone makes nearly
// all of the 10 MB of program resident, and nothing takes them away again. A page that
// is needed comes back from the page cache, which all sidecars of a node share, in a
// microsecond.
func tendMemory(ctx context.Context, log *slog.Logger) {
	fit, tend := time.NewTicker(fitEvery), time.NewTicker(tendEvery)
	defer fit.Stop()
	defer tend.Stop()
	c := newCollector(time.Now())
	ran := collections(ctx)
	shed := tend.C
	for {
		select {
		case <-ran:
			c.collected(time.Now())
		case now := <-fit.C:
			c.tick(now)
		case <-shed:
			if err := shedOnce(); err != nil {
				log.Debug("give pages back", "error", err)
				shed = nil
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
