// Package render prints what the control plane answered, for people and for
// programs: pure functions from API values to text, in Linkerd's formats. It
// refuses to know where values come from and what terminal they go to.
package render

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tunmesh/tunmesh/api/query"
)

// StatOptions chooses columns.
type StatOptions struct {
	Namespace bool // a NAMESPACE column: rows of all namespaces
	Kinds     bool // names as deploy/web, though all rows be of one kind
	Wide      bool // READ_BYTES/SEC and WRITE_BYTES/SEC
	// Width is that of the terminal, where there is one: tables that are wider are
	// drawn tighter, down to names without their middle.
	Width int
}

// Stat prints rows as a table: NAME (and NAMESPACE) to the left, figures to the
// right, three spaces between columns. Rows of several kinds, sorted by kind, are a
// table each, with names as deploy/web. No rows: "No traffic found.".
func Stat(w io.Writer, rows []*query.StatRow, o StatOptions) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "No traffic found.")
		return err
	}
	kinds := slices.Collect(ofOneKind(rows))
	names := func(r *query.StatRow) string { return clean(r.GetName()) } // an authority is what a client says
	if len(kinds) > 1 || o.Kinds {
		names = func(r *query.StatRow) string { return shortKind(r.GetKind()) + "/" + clean(r.GetName()) }
	}
	least := []int{0}
	if o.Namespace {
		least = []int{0, 0}
	}
	for _, r := range rows {
		last := len(least) - 1
		least[0], least[last] = max(least[0], utf8.RuneCountInString(r.GetNamespace())*last), max(least[last], utf8.RuneCountInString(names(r)))
	}
	for i, rows := range kinds {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		if err := statOfKind(w, rows, o, names, least); err != nil {
			return err
		}
	}
	return nil
}

// ofOneKind are neighbours of the same kind.
func ofOneKind(rows []*query.StatRow) iter.Seq[[]*query.StatRow] {
	return func(yield func([]*query.StatRow) bool) {
		for len(rows) > 0 {
			n := 1
			for n < len(rows) && rows[n].GetKind() == rows[0].GetKind() {
				n++
			}
			if !yield(rows[:n]) {
				return
			}
			rows = rows[n:]
		}
	}
}

// shortKind is a kind as it is typed.
func shortKind(kind string) string {
	short := map[string]string{
		"authority": "au", "authorizationpolicy": "authzpolicy", "cronjob": "cj", "daemonset": "ds", "deployment": "deploy", "namespace": "ns", "pod": "po",
		"replicaset": "rs", "replicationcontroller": "rc", "server": "srv", "serverauthorization": "saz", "service": "svc",
		"statefulset": "sts", "trafficsplit": "ts",
	}[kind]
	return cmp.Or(short, kind)
}

func statOfKind(w io.Writer, rows []*query.StatRow, o StatOptions, names func(*query.StatRow) string, least []int) error {
	if c, ok := policyColumns(rows[0].GetKind(), names); ok {
		return c.write(w, rows, o, least)
	}
	t := table{fit: o.Width, left: 1, least: least}
	head := []string{"NAME"}
	if o.Namespace {
		head = append([]string{"NAMESPACE"}, head...)
		t.left = 2
	}
	pods := rows[0].GetKind() == "pod"
	if pods {
		head = append(head, "STATUS")
	}
	head = append(head, "MESHED", "SUCCESS", "RPS", "LATENCY_P50", "LATENCY_P95", "LATENCY_P99", "TCP_CONN")
	if o.Wide {
		head = append(head, "READ_BYTES/SEC", "WRITE_BYTES/SEC")
	}
	t.add(append(head, "TLS")...)
	for _, r := range rows {
		t.add(statCells(r, names(r), o, pods)...)
	}
	if t.gap() == 1 {
		for i, h := range t.rows[0] {
			t.rows[0][i] = strings.TrimPrefix(h, "LATENCY_")
		}
	}
	return t.write(w)
}

func statCells(r *query.StatRow, name string, o StatOptions, pods bool) []string {
	cells := []string{name}
	if o.Namespace {
		cells = append([]string{r.GetNamespace()}, cells...)
	}
	if pods {
		cells = append(cells, r.GetStatus())
	}
	cells = append(cells, meshed(r))
	cells = append(cells, rates(r.GetSuccessCount(), r.GetFailureCount(), r.GetRps(), r.GetLatencyMsP50(), r.GetLatencyMsP95(), r.GetLatencyMsP99())...)
	if r.GetHasTraffic() && hasPods(r) {
		cells = append(cells, fmt.Sprint(r.GetTcpOpenConnections()))
	} else {
		cells = append(cells, "-")
	}
	if o.Wide {
		if r.GetHasTraffic() && hasPods(r) {
			cells = append(cells, fmt.Sprintf("%.1fB/s", r.GetTcpReadBytesRate()), fmt.Sprintf("%.1fB/s", r.GetTcpWriteBytesRate()))
		} else {
			cells = append(cells, "-", "-")
		}
	}
	tls := "-"
	if r.Tls != nil {
		tls = percent(r.GetTls())
	}
	return append(cells, tls)
}

// percent never rounds up to 100: "TLS 100%" is a promise.
func percent(share float64) string { return fmt.Sprintf("%d%%", int(math.Floor(100*share))) }

func millis(ms float64) string { return fmt.Sprintf("%.0fms", ms) }

func meshed(r *query.StatRow) string {
	if !hasPods(r) {
		return "-"
	}
	return fmt.Sprintf("%d/%d", r.GetMeshedPods(), r.GetRunningPods())
}

// hasPods reports whether a row is of something that pods belong to.
func hasPods(r *query.StatRow) bool { return r.GetKind() != "service" && r.GetKind() != "authority" }

func requests(r *query.StatRow) uint64 { return r.GetSuccessCount() + r.GetFailureCount() }

func successRate(r *query.StatRow) float64 {
	return float64(r.GetSuccessCount()) / float64(requests(r))
}

// StatRow is a row as JSON: Linkerd's field names, and tls as a share from 0 to
// 1. Figures without data are null.
type StatRow struct {
	Namespace  string   `json:"namespace"`
	Kind       string   `json:"kind"`
	Name       string   `json:"name"`
	Meshed     string   `json:"meshed"`
	Success    *float64 `json:"success"`
	RPS        *float64 `json:"rps"`
	P50        *uint64  `json:"latency_ms_p50"`
	P95        *uint64  `json:"latency_ms_p95"`
	P99        *uint64  `json:"latency_ms_p99"`
	TCPOpen    *uint64  `json:"tcp_open_connections"`
	ReadBytes  *float64 `json:"tcp_read_bytes_rate"`
	WriteBytes *float64 `json:"tcp_write_bytes_rate"`
	TLS        *float64 `json:"tls"`

	// Of policy's kinds and of traffic splits alone.
	Unauthorized *float64 `json:"unauthorized,omitempty"`
	Apex         string   `json:"apex,omitempty"`
	Leaf         string   `json:"leaf,omitempty"`
	Weight       string   `json:"weight,omitempty"`
}

// StatJSON prints rows as one JSON document: a list.
func StatJSON(w io.Writer, rows []*query.StatRow) error {
	out := make([]StatRow, 0, len(rows))
	for _, r := range rows {
		j := StatRow{Namespace: r.GetNamespace(), Kind: r.GetKind(), Name: r.GetName(), Meshed: meshed(r), TLS: r.Tls, Apex: r.GetApex(), Leaf: r.GetLeaf(), Weight: r.GetWeight()}
		if ofPolicy(r.GetKind()) && requests(r) > 0 {
			j.Unauthorized = ptr(r.GetUnauthorizedRps())
		}
		if requests(r) > 0 {
			j.Success, j.RPS = ptr(successRate(r)), ptr(r.GetRps())
			j.P50, j.P95, j.P99 = whole(r.GetLatencyMsP50()), whole(r.GetLatencyMsP95()), whole(r.GetLatencyMsP99())
		}
		if r.GetHasTraffic() && hasPods(r) {
			j.TCPOpen = ptr(r.GetTcpOpenConnections())
			j.ReadBytes, j.WriteBytes = ptr(r.GetTcpReadBytesRate()), ptr(r.GetTcpWriteBytesRate())
		}
		out = append(out, j)
	}
	return writeJSON(w, out)
}

func ptr[T any](v T) *T { return &v }

func whole(ms float64) *uint64 { return ptr(uint64(math.Round(ms))) }

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
