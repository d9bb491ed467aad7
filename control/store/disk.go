package store

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"time"
)

// chunkBytes is what a series that is in memory takes of the disk when its samples
// are moved there, in bulk.
const chunkBytes = 256

// disk says whether there is room to keep more. The database ends the process when it
// cannot move samples of series from memory to the disk, so room for those is left
// alone: what cannot be kept is refused before it is in memory.
type disk struct {
	dir     string
	reserve int64
	now     func() time.Time

	looked atomic.Int64 // when it was last looked, in seconds
	free   atomic.Int64
}

func newDisk(cfg Config) *disk {
	return &disk{dir: cfg.Dir, reserve: min(int64(cfg.MaxSeries)*chunkBytes, cfg.MaxBytes/8), now: time.Now}
}

// room returns an error where there is too little. It looks once a second.
func (d *disk) room() error {
	now := d.now().Unix()
	if last := d.looked.Load(); last != now && d.looked.CompareAndSwap(last, now) {
		var fs syscall.Statfs_t
		if err := syscall.Statfs(d.dir, &fs); err != nil {
			d.looked.Store(last)
			return fmt.Errorf("look at the disk of %s: %w", d.dir, err)
		}
		d.free.Store(int64(fs.Bavail) * fs.Bsize) //nolint:gosec // a disk has fewer than 2^63 bytes
	}
	if free := d.free.Load(); free < d.reserve {
		return fmt.Errorf("%d bytes are free in %s, %d of which are left alone: %w", free, d.dir, d.reserve, syscall.ENOSPC)
	}
	return nil
}
