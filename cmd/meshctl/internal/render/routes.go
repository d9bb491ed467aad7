package render

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/tunmesh/tunmesh/api/query"
)

// Routes prints rows of stat-inbound or stat-outbound: Linkerd's columns.
func Routes(w io.Writer, rows []*query.RouteRow, outbound bool) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "No traffic found.")
		return err
	}
	latencies := []string{"SUCCESS", "RPS", "LATENCY_P50", "LATENCY_P95", "LATENCY_P99"}
	if !outbound {
		t := table{left: 4, sep: 2}
		t.add(append([]string{"NAME", "SERVER", "ROUTE", "TYPE"}, latencies...)...)
		for _, r := range rows {
			t.add(append([]string{r.GetName(), fmt.Sprintf("%s:%d", cmp.Or(r.GetParent(), "[default]"), r.GetPort()), cmp.Or(r.GetRoute(), "[default]"), r.GetRouteKind()}, routeRates(r)...)...)
		}
		return t.write(w)
	}
	t := table{left: 5, sep: 2}
	t.add(append(append([]string{"NAME", "SERVICE", "ROUTE", "TYPE", "BACKEND"}, latencies...), "TIMEOUTS", "RETRIES")...)
	type branch struct {
		at   int
		last bool
	}
	var branches []branch
	for _, r := range rows {
		n := r.GetSuccessCount() + r.GetFailureCount()
		cells := append([]string{r.GetName(), service(r), cmp.Or(r.GetRoute(), "[default]"), r.GetRouteKind(), ""}, routeRates(r)...)
		t.add(append(cells, share(r.GetTimeoutCount(), n), share(r.GetRetryCount(), n))...)
		for i, b := range r.GetBackends() {
			branches = append(branches, branch{len(t.rows), i == len(r.GetBackends())-1})
			t.add(append(append([]string{"", "", "", "", service(b)}, routeRates(b)...), "", "")...)
		}
	}
	widths := t.widths()
	for _, b := range branches { // drawn from the route to the backend
		line := "├─"
		if b.last {
			line = "└─"
		}
		line += strings.Repeat("─", widths[2]-utf8.RuneCountInString(line))
		t.rows[b.at][2], t.rows[b.at][3] = line, strings.Repeat("─", widths[3]-2)+"─►"
	}
	var b strings.Builder
	if err := t.write(&b); err != nil {
		return err
	}
	for line := range strings.Lines(strings.ReplaceAll(b.String(), "─  ─", "────")) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

func service(r *query.RouteRow) string {
	name, ns, _ := strings.Cut(r.GetParent(), ".")
	if ns != r.GetNamespace() {
		name = r.GetParent()
	}
	return fmt.Sprintf("%s:%d", name, r.GetPort())
}

func share(n, of uint64) string {
	return fmt.Sprintf("%.2f%%", 100*float64(n)/float64(max(of, 1)))
}

func routeRates(r *query.RouteRow) []string {
	cells := rates(r.GetSuccessCount(), r.GetFailureCount(), r.GetRps(), r.GetLatencyMsP50(), r.GetLatencyMsP95(), r.GetLatencyMsP99())
	if cells[1] != "-" {
		cells[1] = fmt.Sprintf("%.2f", r.GetRps())
	}
	return cells
}

// Route is a row of stat-inbound or stat-outbound as JSON.
type Route struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Server    string   `json:"server,omitempty"`
	Service   string   `json:"service,omitempty"`
	Port      uint32   `json:"port"`
	Route     string   `json:"route"`
	Type      string   `json:"type"`
	Success   *float64 `json:"success"`
	RPS       *float64 `json:"rps"`
	P50       *uint64  `json:"latency_ms_p50"`
	P95       *uint64  `json:"latency_ms_p95"`
	P99       *uint64  `json:"latency_ms_p99"`
	Timeouts  *uint64  `json:"timeouts,omitempty"`
	Retries   *uint64  `json:"retries,omitempty"`
	Backends  []Route  `json:"backends,omitempty"`
}

// RoutesJSON prints rows as one JSON document: a list.
func RoutesJSON(w io.Writer, rows []*query.RouteRow, outbound bool) error {
	out := make([]Route, 0, len(rows))
	for _, r := range rows {
		out = append(out, routeOf(r, outbound))
	}
	return writeJSON(w, out)
}

func routeOf(r *query.RouteRow, outbound bool) Route {
	j := Route{Namespace: r.GetNamespace(), Name: r.GetName(), Port: r.GetPort(), Route: cmp.Or(r.GetRoute(), "[default]"), Type: r.GetRouteKind()}
	if outbound {
		j.Service, j.Timeouts, j.Retries = r.GetParent(), ptr(r.GetTimeoutCount()), ptr(r.GetRetryCount())
	} else {
		j.Server = cmp.Or(r.GetParent(), "[default]")
	}
	if n := r.GetSuccessCount() + r.GetFailureCount(); n > 0 {
		j.Success, j.RPS = ptr(float64(r.GetSuccessCount())/float64(n)), ptr(r.GetRps())
		j.P50, j.P95, j.P99 = whole(r.GetLatencyMsP50()), whole(r.GetLatencyMsP95()), whole(r.GetLatencyMsP99())
	}
	for _, b := range r.GetBackends() {
		j.Backends = append(j.Backends, routeOf(b, outbound))
	}
	return j
}
