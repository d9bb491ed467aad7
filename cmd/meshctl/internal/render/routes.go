package render

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/tunmesh/tunmesh/api/query"
)

// arrow leads from a route to a backend, and is what TYPE is wide at least.
const arrow = "────────►"

// Routes prints rows of stat-inbound or stat-outbound: Linkerd's columns, with two
// spaces after each, the last one too.
func Routes(w io.Writer, rows []*query.RouteRow, outbound bool) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "No traffic found.")
		return err
	}
	latencies := []string{"SUCCESS", "RPS", "LATENCY_P50", "LATENCY_P95", "LATENCY_P99"}
	if !outbound {
		t := table{left: 4, sep: 2, trail: true}
		t.add(append([]string{"NAME", "SERVER", "ROUTE", "TYPE"}, latencies...)...)
		for _, r := range rows {
			t.add(append([]string{r.GetName(), fmt.Sprintf("%s:%d", cmp.Or(r.GetParent(), "[default]"), r.GetPort()), cmp.Or(r.GetRoute(), "[default]"), r.GetRouteKind()}, routeRates(r)...)...)
		}
		return t.write(w)
	}
	t := table{left: 5, sep: 2, trail: true}
	t.add(append(append([]string{"NAME", "SERVICE", "ROUTE", "TYPE", "BACKEND"}, latencies...), "TIMEOUTS", "RETRIES")...)
	type branch struct {
		at   int
		last bool
	}
	var branches []branch
	for _, r := range rows {
		n := r.GetSuccessCount() + r.GetFailureCount()
		cells := append([]string{r.GetName(), service(r), cmp.Or(r.GetRoute(), "[default]"), r.GetRouteKind(), ""}, routeRates(r)...)
		t.add(append(cells, share(r.GetTimeoutCount(), n), share(r.GetRetryCount(), n+r.GetRetryCount()))...)
		for i, b := range r.GetBackends() {
			branches = append(branches, branch{len(t.rows), i == len(r.GetBackends())-1})
			cells := append([]string{"", "", "", arrow, service(b)}, routeRates(b)...)
			t.add(append(cells, share(b.GetTimeoutCount(), b.GetSuccessCount()+b.GetFailureCount()), "")...)
		}
	}
	widths := t.widths()
	for _, b := range branches { // drawn from the route to the backend
		corner := "├"
		if b.last {
			corner = "└"
		}
		t.rows[b.at][2] = corner + strings.Repeat("─", widths[2]-1)
		t.rows[b.at][3] = strings.Repeat("─", widths[3]-1) + "►"
	}
	var b strings.Builder
	if err := t.write(&b); err != nil {
		return err
	}
	_, err := io.WriteString(w, strings.ReplaceAll(b.String(), "─  ─", "────"))
	return err
}

func service(r *query.RouteRow) string { return fmt.Sprintf("%s:%d", serviceName(r), r.GetPort()) }

// serviceName has no namespace where it is the client's.
func serviceName(r *query.RouteRow) string {
	if name, ns, _ := strings.Cut(r.GetParent(), "."); ns == r.GetNamespace() {
		return name
	}
	return r.GetParent()
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

// Route is a row of stat-inbound or stat-outbound as JSON: Linkerd's field names,
// and the namespace. A row of a backend has the route's name, and its own figures.
type Route struct {
	Namespace   string `json:"namespace"`
	Name        string `json:"name"`
	Server      string `json:"server,omitempty"`
	Service     string `json:"service,omitempty"`
	Port        string `json:"port"`
	Route       string `json:"route"`
	RouteType   string `json:"routeType"`
	Backend     string `json:"backend,omitempty"`
	BackendPort string `json:"backendPort,omitempty"`
	// Linkerd's name of it is successesRate for inbound rows alone.
	SuccessRate   *float64 `json:"successRate"`
	SuccessesRate *float64 `json:"successesRate,omitempty"`
	RPS           *float64 `json:"rps"`
	P50           *float64 `json:"latencyMsP50"`
	P95           *float64 `json:"latencyMsP95"`
	P99           *float64 `json:"latencyMsP99"`
	TimeoutRate   *float64 `json:"timeoutRate,omitempty"`
	RetryRate     *float64 `json:"retryRate,omitempty"`
}

// RoutesJSON prints rows as one JSON document: a list, each row before those of its
// backends.
func RoutesJSON(w io.Writer, rows []*query.RouteRow, outbound bool) error {
	out := make([]Route, 0, len(rows))
	for _, r := range rows {
		j := routeOf(r)
		if !outbound {
			j.Server, j.SuccessesRate = cmp.Or(r.GetParent(), "[default]"), j.SuccessRate
			out = append(out, j)
			continue
		}
		j.Service, j.TimeoutRate = serviceName(r), timeoutRate(r)
		if n := r.GetSuccessCount() + r.GetFailureCount() + r.GetRetryCount(); n > 0 {
			j.RetryRate = ptr(float64(r.GetRetryCount()) / float64(n))
		}
		out = append(out, j)
		for _, b := range r.GetBackends() {
			k := routeOf(b)
			k.Service, k.Port, k.Route, k.RouteType = j.Service, j.Port, j.Route, j.RouteType
			k.Backend, k.BackendPort, k.TimeoutRate = serviceName(b), fmt.Sprint(b.GetPort()), timeoutRate(b)
			out = append(out, k)
		}
	}
	return writeJSON(w, out)
}

func routeOf(r *query.RouteRow) Route {
	j := Route{Namespace: r.GetNamespace(), Name: r.GetName(), Port: fmt.Sprint(r.GetPort()), Route: cmp.Or(r.GetRoute(), "[default]"), RouteType: r.GetRouteKind()}
	if n := r.GetSuccessCount() + r.GetFailureCount(); n > 0 {
		j.SuccessRate, j.RPS = ptr(float64(r.GetSuccessCount())/float64(n)), ptr(r.GetRps())
		j.P50, j.P95, j.P99 = ptr(r.GetLatencyMsP50()), ptr(r.GetLatencyMsP95()), ptr(r.GetLatencyMsP99())
	}
	return j
}

func timeoutRate(r *query.RouteRow) *float64 {
	n := r.GetSuccessCount() + r.GetFailureCount()
	if n == 0 {
		return nil
	}
	return ptr(float64(r.GetTimeoutCount()) / float64(n))
}
