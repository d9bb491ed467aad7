package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/wlog"
	"github.com/prometheus/prometheus/util/compression"
)

// Defaults of Config.
const (
	DefaultRetention = 24 * time.Hour
	DefaultMaxBytes  = 2 << 30
	DefaultMaxSeries = 600_000
)

// blockRange is the time that one block has. What is newer is in memory, up to one
// and a half of it: shorter is less memory and more files.
const blockRange = 30 * time.Minute

// lookback is how old a sample may be and still be a series' present one. Series
// that end are marked, so it bridges missed scrapes only.
const lookback = time.Minute

// Config says where and how much a Store keeps.
type Config struct {
	// Dir is its folder, made where it is absent; nothing else may be in it. "" = a
	// temporary one, which Close removes.
	Dir string
	// Retention is how long samples are kept; 0 = DefaultRetention. At least an hour.
	Retention time.Duration
	// MaxBytes is how much of the disk they may take; the oldest go first. What is not
	// a block yet counts, and goes last. 0 = DefaultMaxBytes.
	MaxBytes int64
	// MaxSeries bounds the series in memory, some 1.5 KB each; 0 = DefaultMaxSeries.
	// Samples of more are dropped and counted.
	MaxSeries int
	// Limits of queries; the zero value of each is its default.
	Limits Limits
	Logger *slog.Logger // nil = discard
}

func (c Config) withDefaults() (Config, error) {
	c.Retention = cmp.Or(c.Retention, DefaultRetention)
	c.MaxBytes = cmp.Or(c.MaxBytes, DefaultMaxBytes)
	c.MaxSeries = cmp.Or(c.MaxSeries, DefaultMaxSeries)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Retention < time.Hour || c.MaxBytes < 64<<20 || c.MaxSeries < 1000 {
		return c, fmt.Errorf("open the metrics store: retention %v, %d bytes, %d series: want at least 1h, %d bytes and 1000 series", c.Retention, c.MaxBytes, c.MaxSeries, 64<<20)
	}
	return c, nil
}

// Check says what is wrong with it.
func (c Config) Check() error {
	_, err := c.withDefaults()
	return err
}

// Store is the database and its engine.
type Store struct {
	cfg       Config
	db        *tsdb.DB
	engine    *promql.Engine
	disk      *disk
	temporary bool
	running   chan struct{} // one for each query that runs
	admitted  chan struct{} // one for each that runs or waits

	mu       sync.Mutex // of targets; each is worked on by one scrape at a time
	targets  map[string]*target
	metadata *metadata

	dropped atomic.Uint64 // samples beyond MaxSeries
	refused atomic.Uint64 // samples that the database did not take: out of order
	failing atomic.Pointer[string]
	closed  sync.Once
}

// Open opens or makes a store. One that is damaged beyond the database's own repair
// is moved aside, once, and an empty one takes its place.
func Open(cfg Config) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, targets: map[string]*target{}, metadata: newMetadata()}
	if cfg.Dir == "" {
		if s.cfg.Dir, err = os.MkdirTemp("", "tunmesh-metrics-"); err != nil {
			return nil, fmt.Errorf("open the metrics store: %w", err)
		}
		s.temporary = true
	}
	s.disk = newDisk(s.cfg)
	if err := s.open(); err != nil {
		if s.temporary {
			err = errors.Join(err, os.RemoveAll(s.cfg.Dir))
		}
		return nil, err
	}
	s.cfg.Limits = cfg.Limits.withDefaults(cfg.MaxSeries)
	s.engine = newEngine(s.cfg)
	s.running = make(chan struct{}, s.cfg.Limits.Concurrency)
	s.admitted = make(chan struct{}, s.cfg.Limits.Concurrency+maxWaiting)
	return s, nil
}

func (s *Store) open() (err error) {
	dir := filepath.Join(s.cfg.Dir, "data")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("open the metrics store in %s: %w: %s", s.cfg.Dir, err, remedy(err))
	}
	if err = s.disk.room(); err == nil {
		if s.db, err = s.openAt(dir); err == nil {
			return nil
		}
	}
	if !damaged(err) {
		return fmt.Errorf("open the metrics store in %s: %w: %s", s.cfg.Dir, err, remedy(err))
	}
	aside := filepath.Join(s.cfg.Dir, "damaged")
	s.cfg.Logger.Error("the metrics store is damaged; it is moved aside and an empty one begins", "dir", dir, "to", aside, "err", err)
	if err := errors.Join(os.RemoveAll(aside), os.Rename(dir, aside), os.MkdirAll(dir, 0o750)); err != nil {
		return fmt.Errorf("move the damaged metrics store %s aside: %w: empty the folder", dir, err)
	}
	if s.db, err = s.openAt(dir); err != nil {
		return fmt.Errorf("open an empty metrics store in %s: %w: %s", dir, err, remedy(err))
	}
	return nil
}

func (s *Store) openAt(dir string) (*tsdb.DB, error) {
	o := tsdb.DefaultOptions()
	o.RetentionDuration = s.cfg.Retention.Milliseconds()
	o.MaxBytes = s.cfg.MaxBytes
	o.MinBlockDuration = blockRange.Milliseconds()
	// A block goes as a whole: a tenth of what is kept at most.
	o.MaxBlockDuration = max(o.MinBlockDuration, s.cfg.Retention.Milliseconds()/10)
	o.WALSegmentSize = 16 << 20
	o.WALCompression = compression.Snappy
	o.StripeSize = 1 << 10
	return tsdb.Open(dir, s.cfg.Logger.With("part", "metrics store"), nil, o, nil)
}

// damaged says whether it is the content of files that keeps a database from opening.
func damaged(err error) bool {
	var segment *wlog.CorruptionErr
	var chunk *chunks.CorruptionErr
	return errors.As(err, &segment) || errors.As(err, &chunk) || strings.Contains(err.Error(), "corrupt") || strings.Contains(err.Error(), "invalid")
}

// remedy says what to do about an error of the file system.
func remedy(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "the disk is full: enlarge the volume, or keep less (retention, size)"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return "the folder must be writable for the user that the process runs as"
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EWOULDBLOCK):
		return "another process has it open: let each have a folder of its own"
	case errors.Is(err, syscall.EIO):
		return "the disk fails: replace the volume"
	}
	return "look at the volume"
}

// Close lets go of the database; what was inserted is kept. It may be called again.
func (s *Store) Close() (err error) {
	s.closed.Do(func() {
		if err = s.db.Close(); err != nil {
			err = fmt.Errorf("close the metrics store: %w", err)
		}
		if s.temporary {
			err = errors.Join(err, os.RemoveAll(s.cfg.Dir))
		}
	})
	return err
}

// Problem is what keeps samples from being kept, "" when nothing does.
func (s *Store) Problem() string {
	if p := s.failing.Load(); p != nil {
		return *p
	}
	return ""
}

// Since is the time of the oldest sample; zero: there is none.
func (s *Store) Since() time.Time {
	oldest := s.db.Head().MinTime()
	for _, b := range s.db.BlockMetas() {
		oldest = min(oldest, b.MinTime)
	}
	if oldest == math.MaxInt64 || oldest == math.MinInt64 {
		return time.Time{}
	}
	return time.UnixMilli(oldest)
}

// Size is the number of series in memory, and of samples that were dropped for want
// of room and refused for their time.
func (s *Store) Size() (series uint64, dropped, refused uint64) {
	return s.db.Head().NumSeries(), s.dropped.Load(), s.refused.Load()
}

// Bytes is what it takes of the disk.
func (s *Store) Bytes() (n int64, err error) {
	err = filepath.WalkDir(s.cfg.Dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		n += info.Size()
		return nil
	})
	if err != nil {
		return n, fmt.Errorf("measure the metrics store: %w", err)
	}
	return n, nil
}

// failed remembers and tells, once, what keeps samples from being kept; nil: nothing.
func (s *Store) failed(err error) {
	if err == nil {
		if s.failing.Swap(nil) != nil {
			s.cfg.Logger.Info("figures are kept again")
		}
		return
	}
	text := fmt.Sprintf("figures are not kept: %v: %s", err, remedy(err))
	if old := s.failing.Swap(&text); old == nil || *old != text {
		s.cfg.Logger.Error("figures are not kept", "err", err, "do", remedy(err))
	}
}

// withBase are the labels of a page's line with the target's, which win.
func withBase(b *labels.Builder, base map[string]string) labels.Labels {
	for k, v := range base {
		b.Set(k, v)
	}
	return b.Labels()
}
