package control

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/metrics"
	"github.com/tunmesh/tunmesh/control/store"
)

// TestFiguresWithoutTheirDisk: where the store's folder cannot be used there is a
// temporary one, and where there is room for none, the last minute; it is said each
// time. A mistake in what is asked for is not a disk's.
func TestFiguresWithoutTheirDisk(t *testing.T) {
	c, err := catalog.New(catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	begin := func(t *testing.T, cfg store.Config) (*figures, error) {
		f, err := newFigures(figuresConfig{common: Config{Window: 70 * time.Second, Logger: slog.New(slog.DiscardHandler)}, catalog: c, store: &cfg})
		if err == nil {
			t.Cleanup(func() {
				if err := f.close(); err != nil {
					t.Error(err)
				}
			})
		}
		return f, err
	}
	healthy := func(t *testing.T, f *figures) float64 {
		t.Helper()
		r := prometheus.NewPedanticRegistry()
		r.MustRegister(f.meters()...)
		all, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if strings.HasSuffix(m.GetName(), "metrics_store_healthy") {
				return m.GetMetric()[0].GetGauge().GetValue()
			}
		}
		t.Fatal("nobody says whether figures are kept")
		return 0
	}
	t.Run("a folder", func(t *testing.T) {
		f, err := begin(t, store.Config{Dir: t.TempDir()})
		if err != nil || f.problem() != "" || healthy(t, f) != 1 {
			t.Errorf("%q, %v", f.problem(), err)
		}
	})
	t.Run("a folder that is none", func(t *testing.T) {
		f, err := begin(t, store.Config{Dir: file})
		if err != nil || f.store == nil || !strings.Contains(f.problem(), file) || healthy(t, f) != 0 {
			t.Errorf("%+v, %v", f, err)
		}
	})
	t.Run("nor another", func(t *testing.T) {
		t.Setenv("TMPDIR", file)
		for _, dir := range []string{file, ""} {
			f, err := begin(t, store.Config{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := f.querier().(*metrics.Window); !ok || !strings.Contains(f.problem(), file) || healthy(t, f) != 0 || f.api() != nil || f.promQL() != nil {
				t.Errorf("%q: %+v", dir, f)
			}
		}
	})
	t.Run("a mistake", func(t *testing.T) {
		if _, err := begin(t, store.Config{Dir: file, Retention: time.Minute}); err == nil || !strings.Contains(err.Error(), "1h") {
			t.Errorf("%v", err)
		}
	})
}
