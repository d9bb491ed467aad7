package control

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/metrics"
	"github.com/tunmesh/tunmesh/control/query"
	"github.com/tunmesh/tunmesh/control/store"
)

// MetricsDir is the folder of the metrics store in a local mesh's state folder.
const MetricsDir = "metrics"

// What a local mesh keeps, unless it is told otherwise.
const (
	localRetention = 6 * time.Hour
	localMaxBytes  = 512 << 20
)

// figures are what sidecars counted: scraped here and kept for a minute in memory
// and for longer in a store, or asked of a Prometheus of somebody's.
type figures struct {
	window  *metrics.Window
	scraper *metrics.Scraper
	store   *store.Store    // nil: with remote, where nobody asks, and where there is no disk for it
	remote  *store.External // nil: with store
	lost    string          // why the store is not where it should be, "" where it is
	log     *slog.Logger
}

// figuresConfig says where they come from.
type figuresConfig struct {
	common     Config
	catalog    *catalog.Catalog
	store      *store.Config // nil: nothing but the window
	prometheus string        // URL; "" = none
	others     func() []metrics.Other
	dial       func(ctx context.Context, network, address string) (net.Conn, error) // nil: TCP; tests have another
}

func newFigures(cfg figuresConfig) (_ *figures, err error) {
	f := &figures{log: cfg.common.Logger}
	if f.window, err = metrics.NewWindow(cfg.common.Window); err != nil {
		return nil, err
	}
	scrape := metrics.Config{Catalog: cfg.catalog, Window: f.window, Interval: cfg.common.ScrapeInterval, Dial: cfg.dial, Logger: cfg.common.Logger}
	switch {
	case cfg.prometheus != "":
		if f.remote, err = store.NewExternal(cfg.prometheus); err != nil {
			return nil, err
		}
	case cfg.store != nil:
		if err := f.open(*cfg.store, cfg.common); err != nil {
			return nil, err
		}
		if f.store != nil {
			scrape.Keeper, scrape.Others = f.store, cfg.others
		}
	}
	if f.scraper, err = metrics.NewScraper(scrape); err != nil {
		return nil, err
	}
	return f, nil
}

// open opens the store. One that cannot be opened is replaced by a temporary one, or
// by none: people see what happens from now on, and are told. Traffic does not depend
// on a disk, nor does what is in one process with the store.
func (f *figures) open(cfg store.Config, common Config) (err error) {
	if err := cfg.Check(); err != nil {
		return err
	}
	cfg.Logger = common.Logger
	if f.store, err = store.Open(cfg); err == nil {
		return nil
	}
	f.store, f.lost = nil, err.Error()
	if cfg.Dir != "" {
		cfg.Dir = ""
		common.Logger.Error("figures are kept in a temporary folder until the next start", "err", err)
		if f.store, err = store.Open(cfg); err == nil {
			return nil
		}
		f.store = nil
		f.lost += "; " + err.Error()
	}
	common.Logger.Error("figures of the last minute are all that is known until the next start", "err", err)
	return nil
}

// querier is what stat asks.
func (f *figures) querier() metrics.Querier {
	switch {
	case f.remote != nil:
		return metrics.Asker{PromQL: f.remote}
	case f.store != nil:
		return metrics.Layered{Window: f.window, Long: metrics.Asker{PromQL: f.store, Anchored: true}}
	}
	return f.window
}

// promQL is what series are asked of; nil: nobody.
func (f *figures) promQL() metrics.PromQL {
	switch {
	case f.remote != nil:
		return f.remote
	case f.store != nil:
		return f.store
	}
	return nil
}

// api answers Prometheus' HTTP API; nil: nobody does.
func (f *figures) api() http.Handler {
	switch {
	case f.remote != nil:
		return f.remote
	case f.store != nil:
		return f.store
	}
	return nil
}

// run scrapes until ctx ends, unless somebody else does, and lets go of the store.
func (f *figures) run(ctx context.Context) error {
	if f.remote != nil {
		<-ctx.Done()
		f.remote.Close()
		return nil
	}
	var recording sync.WaitGroup
	if f.store != nil {
		recording.Go(func() { f.record(ctx) })
	}
	err := f.scraper.Run(ctx)
	recording.Wait()
	if err != nil {
		return err
	}
	return f.close()
}

// recorded says whether the rates of workloads are in promQL.
func (f *figures) recorded() bool { return f.store != nil }

// record evaluates what everybody asks for at each step until ctx ends. Steps that it
// is too late for are left out.
func (f *figures) record(ctx context.Context) {
	healthy := true
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		at := time.Now().Truncate(query.RecordStep).Add(query.RecordStep)
		t.Reset(time.Until(at))
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		err := f.store.Record(ctx, at, query.Recordings())
		if ctx.Err() != nil {
			return
		}
		if ok := err == nil; ok != healthy {
			healthy = ok
			f.log.Info("recording the figures of workloads", "ok", ok, "err", err)
		}
	}
}

// close lets go of the store. It may be called again.
func (f *figures) close() error {
	if f.store == nil {
		return nil
	}
	return f.store.Close()
}

// problem is why figures are not kept where they should be, "" where they are.
func (f *figures) problem() string {
	if f.store == nil || f.lost != "" {
		return f.lost
	}
	return f.store.Problem()
}

// meters are the scraper's, the window's and the store's metrics.
func (f *figures) meters() []prometheus.Collector {
	list := []prometheus.Collector{
		counter("scrapes_total", "Scrapes of sidecars.", func() float64 { n, _ := f.scraper.Counts(); return float64(n) }),
		counter("scrapes_failed_total", "Scrapes of sidecars that failed.", func() float64 { _, n := f.scraper.Counts(); return float64(n) }),
		gauge("metrics_window_series", "Series of sidecars in memory.", func() float64 { _, n, _ := f.window.Size(); return float64(n) }),
		counter("metrics_window_dropped_total", "Samples beyond the bound of series.", func() float64 { _, _, n := f.window.Size(); return float64(n) }),
	}
	if f.store != nil || f.lost != "" {
		list = append(list, gauge("metrics_store_healthy", "1 while figures are kept where they should be.", func() float64 { return truth(f.problem() == "") }))
	}
	if f.store == nil {
		return list
	}
	return append(list,
		gauge("metrics_store_series", "Series of the store in memory.", func() float64 { n, _, _ := f.store.Size(); return float64(n) }),
		counter("metrics_store_dropped_total", "Samples beyond the store's bound of series.", func() float64 { _, n, _ := f.store.Size(); return float64(n) }),
		counter("metrics_store_refused_total", "Samples that the store did not take because of their time.", func() float64 { _, _, n := f.store.Size(); return float64(n) }),
		gauge("metrics_store_bytes", "What the store takes of its disk.", func() float64 { n, _ := f.store.Bytes(); return float64(n) }),
	)
}

// ownPage is a process of the control plane by its admin address.
func ownPage(addr net.Addr, job string) []metrics.Other {
	if addr == nil {
		return nil
	}
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return nil
	}
	host := "127.0.0.1"
	if a, ok := addr.(*net.TCPAddr); ok && !a.IP.IsUnspecified() {
		host = a.IP.String()
	}
	return []metrics.Other{{
		URL:    "http://" + net.JoinHostPort(host, port) + "/metrics",
		Labels: map[string]string{"job": job, "component": job, "namespace": Namespace},
	}}
}

// pages are the control plane's processes in a cluster.
func (v *View) pages() []metrics.Other {
	var own net.Addr
	if v.adminLis != nil {
		own = v.adminLis.Addr()
	}
	list := ownPage(own, ViewAccount)
	for _, p := range v.catalog.Selected(catalog.Key{Namespace: Namespace, Name: ControlService}) {
		if len(p.IPs) > 0 && !p.Finished() {
			list = append(list, metrics.Other{
				URL:    "http://" + net.JoinHostPort(p.IPs[0].String(), fmt.Sprint(adminPort)) + "/metrics",
				Labels: map[string]string{"job": ServiceAccount, "component": ServiceAccount, "namespace": p.Namespace, "pod": p.Name},
			})
		}
	}
	return list
}

// adminPort is where the chart has the replicas' admin address.
const adminPort = 9990
