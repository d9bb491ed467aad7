package render

import (
	"fmt"
	"io"

	"github.com/tunmesh/tunmesh/api/query"
)

// columns are those of a kind that has no pods.
type columns struct {
	head []string
	left int
	cell func(r *query.StatRow) []string // those before SUCCESS
	tcp  bool
}

// ofPolicy reports whether requests of a kind may be refused.
func ofPolicy(kind string) bool {
	return kind == "server" || kind == "httproute" || kind == "serverauthorization" || kind == "authorizationpolicy"
}

// policyColumns are Linkerd's for rows of policy's kinds and of traffic splits;
// false for any other kind.
func policyColumns(kind string, name func(*query.StatRow) string) (columns, bool) {
	denied := func(r *query.StatRow) string {
		if requests(r) == 0 && r.GetUnauthorizedRps() == 0 {
			return "-"
		}
		return fmt.Sprintf("%.1frps", r.GetUnauthorizedRps())
	}
	var c columns
	switch kind {
	case "server":
		c = columns{head: []string{"NAME", "UNAUTHORIZED"}, left: 1, tcp: true, cell: func(r *query.StatRow) []string {
			return []string{name(r), denied(r)}
		}}
	case "httproute":
		c = columns{head: []string{"NAME", "SERVER", "UNAUTHORIZED"}, left: 2, cell: func(r *query.StatRow) []string {
			return []string{name(r), r.GetServer(), denied(r)}
		}}
	case "serverauthorization", "authorizationpolicy":
		c = columns{head: []string{"NAME"}, left: 1, cell: func(r *query.StatRow) []string { return []string{name(r)} }}
	case "trafficsplit":
		c = columns{head: []string{"NAME", "APEX", "LEAF", "WEIGHT"}, left: 3, cell: func(r *query.StatRow) []string {
			return []string{name(r), r.GetApex(), r.GetLeaf(), r.GetWeight()}
		}}
	default:
		return c, false
	}
	return c, true
}

func (c columns) write(w io.Writer, rows []*query.StatRow, o StatOptions, least []int) error {
	t := table{left: c.left, fit: o.Width, least: least}
	head := append(append([]string{}, c.head...), "SUCCESS", "RPS", "LATENCY_P50", "LATENCY_P95", "LATENCY_P99")
	if c.tcp {
		head = append(head, "TCP_CONN")
	}
	if o.Namespace {
		t.left++
		head = append([]string{"NAMESPACE"}, head...)
	}
	t.add(append(head, "TLS")...)
	for _, r := range rows {
		cells := append(c.cell(r), rates(r.GetSuccessCount(), r.GetFailureCount(), r.GetRps(), r.GetLatencyMsP50(), r.GetLatencyMsP95(), r.GetLatencyMsP99())...)
		if c.tcp {
			open := "-"
			if r.GetHasTraffic() {
				open = fmt.Sprint(r.GetTcpOpenConnections())
			}
			cells = append(cells, open)
		}
		if o.Namespace {
			cells = append([]string{r.GetNamespace()}, cells...)
		}
		tls := "-"
		if r.Tls != nil {
			tls = percent(r.GetTls())
		}
		t.add(append(cells, tls)...)
	}
	return t.write(w)
}

// rates are SUCCESS, RPS and the three latencies.
func rates(success, failure uint64, rps, p50, p95, p99 float64) []string {
	if success+failure == 0 {
		return []string{"-", "-", "-", "-", "-"}
	}
	return []string{
		fmt.Sprintf("%.2f%%", 100*float64(success)/float64(success+failure)), fmt.Sprintf("%.1frps", rps), millis(p50), millis(p95), millis(p99),
	}
}
