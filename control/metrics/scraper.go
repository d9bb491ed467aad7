package metrics

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
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
	// scrapeTimeout bounds one.
	scrapeTimeout = 3 * time.Second
)

// Config says what a Scraper works with.
type Config struct {
	Catalog *catalog.Catalog // required
	Window  *Window          // required
	// Interval between two scrapes of a sidecar; 0 = DefaultInterval.
	Interval time.Duration
	// Dial connects to a sidecar's admin port; nil = TCP. Tests have another.
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Logger *slog.Logger // nil = discard
}

// Scraper scrapes the sidecar of every meshed pod that runs.
type Scraper struct {
	cfg     Config
	client  *http.Client
	places  chan struct{} // one for each scrape in progress
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
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: scrapeTimeout}).DialContext
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Scraper{
		cfg:    cfg,
		places: make(chan struct{}, maxScrapes),
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
		want := s.pods()
		for id, stop := range running {
			if _, ok := want[id]; !ok {
				stop()
				delete(running, id)
			}
		}
		for id, p := range want {
			if running[id] == nil {
				sub, stop := context.WithCancel(ctx)
				running[id] = stop
				wg.Go(func() { s.follow(sub, id, p) })
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

// pods lists the sidecars to scrape, under what makes two of them different.
func (s *Scraper) pods() map[string]*catalog.Pod {
	want := map[string]*catalog.Pod{}
	for _, p := range s.cfg.Catalog.Pods("") {
		if p.Meshed && !p.Finished() && len(p.IPs) > 0 && !p.HostNetwork {
			want[p.Key.String()+" "+p.UID+" "+p.IPs[0].String()] = p
		}
	}
	return want
}

// follow scrapes one sidecar again and again. The pods' turns are spread over
// the interval, always in the same way.
func (s *Scraper) follow(ctx context.Context, id string, p *catalog.Pod) {
	h := fnv.New32a()
	h.Write([]byte(id))
	t := time.NewTimer(time.Duration(h.Sum32()) % s.cfg.Interval)
	defer t.Stop()
	healthy := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		err := s.turn(ctx, id, p)
		if ctx.Err() != nil {
			return
		}
		if ok := err == nil; ok != healthy {
			healthy = ok
			s.cfg.Logger.Info("scraping a sidecar", "pod", p.Key.String(), "ok", ok, "err", err)
		}
		t.Reset(s.cfg.Interval)
	}
}

// turn waits for a place and scrapes once.
func (s *Scraper) turn(ctx context.Context, id string, p *catalog.Pod) error {
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s.scrapes.Add(1)
	err := s.scrape(ctx, id, p)
	if err != nil {
		s.failed.Add(1)
	}
	return err
}

func (s *Scraper) scrape(ctx context.Context, id string, p *catalog.Pod) error {
	addr := netip.AddrPortFrom(p.IPs[0], annotation.AdminPort).String()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return fmt.Errorf("scrape %s: %w", p.Key, err)
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4")
	resp, err := s.client.Do(req)
	if err != nil {
		return fmt.Errorf("scrape %s: %w", p.Key, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("scrape %s: %s", p.Key, resp.Status)
	}
	if n, err := strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64); err == nil && n > maxPage {
		return fmt.Errorf("scrape %s: a page of %d bytes is more than %d", p.Key, n, maxPage)
	}
	at := time.Now()
	samples, began, err := parse(io.LimitReader(resp.Body, maxPage))
	if err != nil {
		return fmt.Errorf("scrape %s: %w", p.Key, err)
	}
	s.cfg.Window.Insert(id, catalog.PodLabels(p), at, began, samples)
	return nil
}
