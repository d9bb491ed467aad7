package store

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

const monitoring = "../../deploy/monitoring"

// unknown lists the metrics of a query that the page of metrics does not have, nor
// Prometheus itself makes.
func unknown(t *testing.T, page, query string) (bad []string) {
	t.Helper()
	expr, err := newParser().ParseExpr(query)
	if err != nil {
		return []string{err.Error()}
	}
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		v, ok := n.(*parser.VectorSelector)
		if !ok || v.Name == "up" {
			return nil
		}
		name := v.Name
		for _, of := range []string{"_bucket", "_sum", "_count"} {
			if base, cut := strings.CutSuffix(name, of); cut && strings.Contains(page, "`"+base) {
				name = base
			}
		}
		if !known(page, name) {
			bad = append(bad, name)
		}
		return nil
	})
	return bad
}

// known says whether the page has a name: written out, or as the ending of one that
// stands before it in the row.
func known(page, name string) bool {
	if strings.Contains(page, "`"+name+"`") {
		return true
	}
	for line := range strings.Lines(page) {
		for i := strings.LastIndex(name, "_"); i > 0; i = strings.LastIndex(name[:i], "_") {
			if strings.Contains(line, "`"+name[i:]+"`") && strings.Contains(line, "`"+name[:i]) {
				return true
			}
		}
	}
	return false
}

func metricsPage(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestDashboardsAskForWhatThereIs: each query of each dashboard is one that the store
// takes over a day, and asks for metrics that there are, by labels that the dashboard
// has variables for.
func TestDashboardsAskForWhatThereIs(t *testing.T) {
	page := metricsPage(t)
	if bad := unknown(t, page, "sum(nobody_counts_this)"); len(bad) != 1 {
		t.Fatalf("the test itself: %v", bad)
	}
	files, err := filepath.Glob(monitoring + "/dashboards/*.json")
	if err != nil || len(files) != 8 {
		t.Fatalf("%d dashboards, %v", len(files), err)
	}
	seen := map[string]bool{}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var d struct {
			UID        string
			Templating struct{ List []struct{ Name string } }
			Panels     []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(raw, &d); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		if d.UID == "" || seen[d.UID] || len(d.Panels) < 6 {
			t.Errorf("%s: uid %q, %d panels", f, d.UID, len(d.Panels))
		}
		seen[d.UID] = true
		pairs := []string{"$__rate_interval", "1m"}
		for _, v := range d.Templating.List {
			pairs = append(pairs, "$"+v.Name, "x")
		}
		for _, p := range d.Panels {
			if len(p.Targets) == 0 {
				t.Errorf("%s: %s asks nothing", f, p.Title)
			}
			for _, target := range p.Targets {
				query := strings.NewReplacer(pairs...).Replace(target.Expr)
				if strings.Contains(query, "$") {
					t.Errorf("%s: %s: no variable for %s", f, p.Title, query)
				}
				if err := check(newParser(), query, 24*time.Hour, time.Minute); err != nil {
					t.Errorf("%s: %s: %v", f, p.Title, err)
				}
				if bad := unknown(t, page, query); bad != nil {
					t.Errorf("%s: %s: no such metrics: %q", f, p.Title, bad)
				}
			}
		}
	}
}

// TestRulesAskForWhatThereIs: the same of recording rules and alerts, each of which
// says what to do.
func TestRulesAskForWhatThereIs(t *testing.T) {
	page := metricsPage(t)
	raw, err := os.ReadFile(monitoring + "/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Record, Alert, Expr, For string
				Labels, Annotations      map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(raw, &rules); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			n++
			if (r.Record == "") == (r.Alert == "") {
				t.Errorf("%s: %+v", g.Name, r)
			}
			if bad := unknown(t, page, r.Expr); bad != nil {
				t.Errorf("%s%s: no such metrics: %q", r.Record, r.Alert, bad)
			}
			if r.Alert != "" && (r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "") {
				t.Errorf("%s says too little: %+v", r.Alert, r)
			}
		}
	}
	if n < 12 {
		t.Errorf("%d rules", n)
	}
}
