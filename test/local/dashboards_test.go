package local_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/control/extension"
	"github.com/tunmesh/tunmesh/test/meshtest"
)

// dashboard is what the test reads of one.
type dashboard struct {
	UID        string
	Templating struct {
		List []struct {
			Name, Type string
			Query      json.RawMessage
		}
	}
	Panels []struct {
		ID      int
		Title   string
		Targets []struct{ Expr string }
	}
}

func dashboards(t *testing.T) (all []dashboard) {
	t.Helper()
	files, err := filepath.Glob("../../deploy/monitoring/dashboards/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(raw, &d); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		all = append(all, d)
	}
	if len(all) != 8 {
		t.Fatalf("%d dashboards", len(all))
	}
	return all
}

// promql asks Prometheus' HTTP API.
type promql struct {
	client *http.Client
	base   string // URL of the host, and what stands before the API's own path
	prefix string // between it and /api/v1
}

// over is an API behind connections that dial makes.
func over(t *testing.T, base, prefix string, dial func(ctx context.Context) (net.Conn, error)) *promql {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
	t.Cleanup(tr.CloseIdleConnections)
	return &promql{&http.Client{Transport: tr, Timeout: 30 * time.Second}, base, prefix}
}

// store is that of a local mesh's own store.
func store(t *testing.T, m *meshtest.Mesh) *promql {
	t.Helper()
	socket := filepath.Join("/run/tunmesh-local", m.Name, "view.sock")
	return over(t, "http://mesh"+extension.Base, "/prometheus", func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	})
}

// get decodes the answer at a path below the API's.
func (p *promql) get(path string, form url.Values, into any) error {
	resp, err := p.client.Get(p.base + path + "?" + form.Encode())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %.500s", path, err, raw)
	}
	return nil
}

// result is the answer to a query.
type result struct {
	Data struct {
		Result []struct {
			Metric map[string]string
		}
	}
}

func (p *promql) query(text string) (r result, err error) {
	err = p.get(p.prefix+"/api/v1/query", url.Values{"query": {text}}, &r)
	return r, err
}

// rows is how many series a query has.
func (p *promql) rows(query string) (int, error) {
	r, err := p.query(query)
	return len(r.Data.Result), err
}

// value is that of a dashboard's variable which most series have.
func (p *promql) value(query string) (string, error) {
	inner := strings.TrimSuffix(strings.TrimPrefix(query, "label_values("), ")")
	i := strings.LastIndex(inner, ",")
	if i < 0 {
		return "", fmt.Errorf("%q is no label_values(metric, label)", query)
	}
	metric, label := inner[:i], strings.TrimSpace(inner[i+1:])
	// The busiest: what has had traffic in the last minute.
	q := fmt.Sprintf(`topk(1, sum by (%s)(rate(%s[1m])) > 0)`, label, metric)
	r, err := p.query(q)
	if err != nil {
		return "", err
	}
	if len(r.Data.Result) == 0 || r.Data.Result[0].Metric[label] == "" {
		return "", fmt.Errorf("%s has no value", q)
	}
	return r.Data.Result[0].Metric[label], nil
}

// missing lists the queries of a dashboard that have no data, or are wrong.
func (p *promql) missing(d dashboard) (bad []string) {
	pairs := []string{"$__rate_interval", "1m"}
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		var q struct{ Query string }
		if err := json.Unmarshal(v.Query, &q); err != nil {
			return append(bad, fmt.Sprintf("%s: variable %s: %v", d.UID, v.Name, err))
		}
		value, err := p.value(strings.NewReplacer(pairs...).Replace(q.Query))
		if err != nil {
			return append(bad, fmt.Sprintf("%s: variable %s: %v", d.UID, v.Name, err))
		}
		pairs = append(pairs, "$"+v.Name, value)
	}
	for _, panel := range d.Panels {
		for _, target := range panel.Targets {
			query := strings.NewReplacer(pairs...).Replace(target.Expr)
			if n, err := p.rows(query); err != nil || n == 0 {
				bad = append(bad, fmt.Sprintf("%s: %s: %s: %d series, %v", d.UID, panel.Title, query, n, err))
			}
		}
	}
	return bad
}

// fill waits until every query of every dashboard has data.
func (p *promql) fill(t *testing.T) {
	t.Helper()
	left := dashboards(t)
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(3 * time.Second) {
		var bad []string
		left = slices.DeleteFunc(left, func(d dashboard) bool {
			m := p.missing(d)
			bad = append(bad, m...)
			return len(m) == 0
		})
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("without data:\n%s", strings.Join(bad, "\n"))
			break
		}
	}
	if n, err := p.rows("nobody_counts_this"); err != nil || n != 0 {
		t.Errorf("the test itself: %d, %v", n, err)
	}
}

// TestDashboards asks a live mesh every query of every dashboard: each has data, in
// the mesh's own store and in a stock Prometheus that scrapes the mesh.
func TestDashboards(t *testing.T) {
	m := meshtest.Up(t, bin, "dash", sample())
	t.Run("a stock Prometheus", func(t *testing.T) {
		if testing.Short() {
			t.Skip("builds Prometheus")
		}
		t.Parallel()
		stock(t, m)
	})
	t.Run("the mesh's own store", func(t *testing.T) {
		t.Parallel()
		p := store(t, m)
		p.fill(t)
		p.past(t)
	})
}

// past waits for the figures of a namespace's past.
func (p *promql) past(t *testing.T) {
	t.Helper()
	meshtest.Eventually(t, 2*time.Minute, "there are figures of the past", func() bool {
		var series struct {
			Steps int
			Rows  []struct {
				Name string
				RPS  []*float64
			}
		}
		if err := p.get("/namespaces/emojivoto/deployments/-/series", url.Values{"window": {"300"}, "step": {"10"}}, &series); err != nil || series.Steps != 31 || len(series.Rows) < 4 {
			t.Fatalf("%+v, %v", series, err)
		}
		busy := 0
		for _, r := range series.Rows {
			if slices.ContainsFunc(r.RPS, func(v *float64) bool { return v != nil && *v > 0 }) {
				busy++
			}
		}
		return busy >= 3 // the bot is asked by nobody
	})
}
