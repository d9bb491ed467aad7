package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

const (
	// DefaultInterval makes a figure on a screen that is drawn every second or two
	// a fresh one; at this rate a sidecar's page of some 100 KB costs it 0.1 %.
	DefaultInterval = 1500 * time.Millisecond
	// maxPage bounds what is read of one sidecar.
	maxPage = 16 << 20
	// maxScrapes bounds the scrapes in progress.
	maxScrapes = 16
	// maxRate bounds the scrapes in a second: with more sidecars than it is good for
	// at the interval, each has its turn less often, 2,000 of them every 10 s.
	maxRate = 200
	// scrapeTimeout bounds one.
	scrapeTimeout = 3 * time.Second
	// DefaultKeepInterval is what Linkerd's Prometheus scrapes at.
	DefaultKeepInterval = 10 * time.Second
)

// Keeper takes whole pages, which the window keeps little of. It is called for one
// id by one goroutine at a time.
type Keeper interface {
	// Insert takes a page in the text format; it borrows it and the labels.
	Insert(id string, labels map[string]string, at time.Time, page []byte) error
	// Lost says that the process did not answer, Forget that it is gone.
	Lost(id string, labels map[string]string, at time.Time)
	Forget(id string, at time.Time)
}

// Other is a process besides sidecars whose pages are for the Keeper.
type Other struct {
	URL    string
	Labels map[string]string
}

// Config says what a Scraper works with.
type Config struct {
	Catalog *catalog.Catalog // required
	Window  *Window          // required
	// Interval between two scrapes of a sidecar; 0 = DefaultInterval.
	Interval time.Duration
	// Keeper takes whole pages every KeepInterval; nil = nobody does. 0 =
	// DefaultKeepInterval.
	Keeper       Keeper
	KeepInterval time.Duration
	// Others lists the processes besides sidecars as they are when it is called; nil =
	// none.
	Others func() []Other
	// Dial connects to a sidecar's admin port; nil = TCP. Tests have another.
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Logger *slog.Logger // nil = discard
}

// Scraper scrapes the sidecar of every meshed pod that runs.
type Scraper struct {
	cfg     Config
	client  *http.Client
	places  chan *bytes.Buffer // one for each scrape in progress, which reads into it
	aims    atomic.Int64       // how many are scraped
	scrapes atomic.Uint64
	failed  atomic.Uint64
}

// NewScraper returns a scraper; Run makes it work.
func NewScraper(cfg Config) (*Scraper, error) {
	if cfg.Catalog == nil || cfg.Window == nil {
		return nil, errors.New("new scraper: catalog and window are needed")
	}
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Interval < 0 || cfg.Interval > cfg.Window.Length()/2 {
		return nil, fmt.Errorf("new scraper: an interval of %v: want at most half of the window, %v", cfg.Interval, cfg.Window.Length()/2)
	}
	if cfg.KeepInterval == 0 {
		cfg.KeepInterval = DefaultKeepInterval
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: scrapeTimeout}).DialContext
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	places := make(chan *bytes.Buffer, maxScrapes)
	for range maxScrapes {
		places <- &bytes.Buffer{}
	}
	return &Scraper{
		cfg:    cfg,
		places: places,
		client: &http.Client{
			Timeout: scrapeTimeout,
			// No proxy and no redirect: an address of a pod, and nothing else.
			Transport:     &http.Transport{DialContext: cfg.Dial, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Counts are the scrapes since the start, and those of them that failed.
func (s *Scraper) Counts() (scrapes, failed uint64) { return s.scrapes.Load(), s.failed.Load() }

// aim is one process that is scraped.
type aim struct {
	id     string
	who    string // for people
	url    string
	labels map[string]string // in the window
	keep   map[string]string // at the Keeper
	other  bool              // no sidecar: for the Keeper only
	kept   time.Time         // when the Keeper last took a page
}

// Run scrapes until ctx ends: one goroutine for each meshed pod, which it starts
// and ends as pods come and go.
func (s *Scraper) Run(ctx context.Context) error {
	seen := s.cfg.Catalog.Observe()
	defer seen.Close()
	defer s.client.CloseIdleConnections()
	running := map[string]context.CancelFunc{}
	var wg sync.WaitGroup
	defer wg.Wait()
	forget := time.NewTicker(s.cfg.Window.Length() / 2)
	defer forget.Stop()
	for {
		want := s.list()
		s.aims.Store(int64(len(want)))
		for id, stop := range running {
			if want[id] == nil {
				stop()
				delete(running, id)
			}
		}
		for id, a := range want {
			if running[id] == nil {
				sub, stop := context.WithCancel(ctx)
				running[id] = stop
				wg.Go(func() { s.follow(sub, a) })
			}
		}
		select {
		case <-ctx.Done():
			for _, stop := range running {
				stop()
			}
			return nil
		case <-seen.Changed():
		case <-forget.C:
			s.cfg.Window.Forget()
		}
	}
}

// list is what to scrape, under what makes two of them different.
func (s *Scraper) list() map[string]*aim {
	want := map[string]*aim{}
	for _, p := range s.cfg.Catalog.Pods("") {
		if p.Meshed && !p.Finished() && len(p.IPs) > 0 && !p.HostNetwork {
			a := &aim{
				id: p.Key.String() + " " + p.UID + " " + p.IPs[0].String(), who: p.Key.String(), labels: s.cfg.Catalog.PodLabels(p),
				url: "http://" + netip.AddrPortFrom(p.IPs[0], annotation.AdminPort).String() + "/metrics",
			}
			a.keep = storedAs(a.labels)
			want[a.id] = a
		}
	}
	if s.cfg.Keeper == nil || s.cfg.Others == nil {
		return want
	}
	for _, o := range s.cfg.Others() {
		want[o.URL] = &aim{id: o.URL, who: o.URL, url: o.URL, keep: o.Labels, other: true}
	}
	return want
}

// storedAs are a pod's labels in what is kept: see Stored.
func storedAs(labels map[string]string) map[string]string {
	all := maps.Clone(labels)
	if name, ok := all["job"]; ok {
		all[Stored("job")] = name
	}
	all["job"] = "mesh-proxy"
	return all
}

// interval is the time between two scrapes of one process.
func (s *Scraper) interval(a *aim) time.Duration {
	each := max(s.cfg.Interval, time.Duration(s.aims.Load())*time.Second/maxRate)
	if a.other {
		each = max(each, s.cfg.KeepInterval)
	}
	return each
}

// follow scrapes one process again and again. Their turns are spread over the
// interval, always in the same way.
func (s *Scraper) follow(ctx context.Context, a *aim) {
	h := fnv.New32a()
	h.Write([]byte(a.id))
	t := time.NewTimer(time.Duration(h.Sum32()) % max(s.cfg.Interval, time.Duration(s.aims.Load())*time.Second/maxRate))
	defer t.Stop()
	if s.cfg.Keeper != nil {
		defer func() { s.cfg.Keeper.Forget(a.id, time.Now()) }()
	}
	healthy := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		err := s.turn(ctx, a)
		if ctx.Err() != nil {
			return
		}
		if ok := err == nil; ok != healthy {
			healthy = ok
			s.cfg.Logger.Info("scraping a sidecar", "pod", a.who, "ok", ok, "err", err)
		}
		t.Reset(s.interval(a))
	}
}

// turn waits for a place and scrapes once.
func (s *Scraper) turn(ctx context.Context, a *aim) error {
	var page *bytes.Buffer
	select {
	case page = <-s.places:
		defer func() { s.places <- page }()
	case <-ctx.Done():
		return ctx.Err()
	}
	page.Reset()
	s.scrapes.Add(1)
	err := s.scrape(ctx, a, page)
	if err != nil {
		s.failed.Add(1)
		if s.due(a) && ctx.Err() == nil {
			a.kept = time.Now()
			s.cfg.Keeper.Lost(a.id, a.keep, a.kept)
		}
	}
	return err
}

// due says whether it is the Keeper's turn.
func (s *Scraper) due(a *aim) bool {
	return s.cfg.Keeper != nil && time.Since(a.kept) >= s.cfg.KeepInterval-s.cfg.Interval/2
}

func (s *Scraper) scrape(ctx context.Context, a *aim, page *bytes.Buffer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url, nil)
	if err != nil {
		return fmt.Errorf("scrape %s: %w", a.who, err)
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4")
	resp, err := s.client.Do(req)
	if err != nil {
		return fmt.Errorf("scrape %s: %w", a.who, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("scrape %s: %s", a.who, resp.Status)
	}
	if n, err := strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64); err == nil && n > maxPage {
		return fmt.Errorf("scrape %s: a page of %d bytes is more than %d", a.who, n, maxPage)
	}
	at := time.Now()
	if n, err := page.ReadFrom(io.LimitReader(resp.Body, maxPage+1)); err != nil {
		return fmt.Errorf("scrape %s: %w", a.who, err)
	} else if n > maxPage {
		return fmt.Errorf("scrape %s: a page of more than %d bytes", a.who, maxPage)
	}
	if !a.other {
		samples, began, err := parse(page.Bytes())
		if err != nil {
			return fmt.Errorf("scrape %s: %w", a.who, err)
		}
		s.cfg.Window.Insert(a.id, a.labels, at, began, samples)
	}
	if !s.due(a) {
		return nil
	}
	a.kept = at
	if err := s.cfg.Keeper.Insert(a.id, a.keep, at, page.Bytes()); err != nil {
		return fmt.Errorf("keep what %s counted: %w", a.who, err)
	}
	return nil
}
