// Package render prints what the control plane answered, for people and for
// programs: pure functions from API values to text, in Linkerd's formats. It
// refuses to know where values come from and what terminal they go to.
package render

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/tunmesh/tunmesh/api/query"
)

// StatOptions chooses columns.
type StatOptions struct {
	Namespace bool // a NAMESPACE column: rows of all namespaces
	Wide      bool // READ_BYTES/SEC and WRITE_BYTES/SEC
	// KindInName prints deployment/web instead of web: rows of several kinds.
	KindInName bool
}

// Stat prints rows as a table: NAME (and NAMESPACE) to the left, figures to the
// right, three spaces between columns. No rows: "No traffic found.".
func Stat(w io.Writer, rows []*query.StatRow, o StatOptions) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "No traffic found.")
		return err
	}
	t := table{}
	head := []string{"NAME"}
	t.left = 1
	if o.Namespace {
		head = append([]string{"NAMESPACE"}, head...)
		t.left = 2
	}
	pods := true
	for _, r := range rows {
		pods = pods && r.GetKind() == "pod"
	}
	if pods {
		head = append(head, "STATUS")
	}
	head = append(head, "MESHED", "SUCCESS", "RPS", "LATENCY_P50", "LATENCY_P95", "LATENCY_P99", "TCP_CONN")
	if o.Wide {
		head = append(head, "READ_BYTES/SEC", "WRITE_BYTES/SEC")
	}
	t.add(append(head, "TLS")...)
	for _, r := range rows {
		t.add(statCells(r, o, pods)...)
	}
	return t.write(w)
}

func statCells(r *query.StatRow, o StatOptions, pods bool) []string {
	name := r.GetName()
	if o.KindInName {
		name = r.GetKind() + "/" + name
	}
	cells := []string{name}
	if o.Namespace {
		cells = append([]string{r.GetNamespace()}, cells...)
	}
	if pods {
		cells = append(cells, r.GetStatus())
	}
	cells = append(cells, meshed(r))
	if requests(r) > 0 {
		cells = append(cells,
			fmt.Sprintf("%.2f%%", 100*successRate(r)),
			fmt.Sprintf("%.1frps", r.GetRps()),
			millis(r.GetLatencyMsP50()), millis(r.GetLatencyMsP95()), millis(r.GetLatencyMsP99()))
	} else {
		cells = append(cells, "-", "-", "-", "-", "-")
	}
	if r.GetHasTraffic() && r.GetKind() != "service" {
		cells = append(cells, fmt.Sprint(r.GetTcpOpenConnections()))
	} else {
		cells = append(cells, "-")
	}
	if o.Wide {
		if r.GetHasTraffic() && r.GetKind() != "service" {
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
	if r.GetKind() == "service" {
		return "-"
	}
	return fmt.Sprintf("%d/%d", r.GetMeshedPods(), r.GetRunningPods())
}

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
}

// StatJSON prints rows as one JSON document: a list.
func StatJSON(w io.Writer, rows []*query.StatRow) error {
	out := make([]StatRow, 0, len(rows))
	for _, r := range rows {
		j := StatRow{Namespace: r.GetNamespace(), Kind: r.GetKind(), Name: r.GetName(), Meshed: meshed(r), TLS: r.Tls}
		if requests(r) > 0 {
			j.Success, j.RPS = ptr(successRate(r)), ptr(r.GetRps())
			j.P50, j.P95, j.P99 = whole(r.GetLatencyMsP50()), whole(r.GetLatencyMsP95()), whole(r.GetLatencyMsP99())
		}
		if r.GetHasTraffic() && r.GetKind() != "service" {
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

// table aligns cells: the first `left` columns to the left, the rest right.
type table struct {
	left int
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) error {
	var widths []int
	for _, r := range t.rows {
		for i, c := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for _, r := range t.rows {
		for i, c := range r {
			if i > 0 {
				b.WriteString("   ")
			}
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if i < t.left {
				b.WriteString(c + pad)
			} else {
				b.WriteString(pad + c)
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Table prints rows, the first of them the head, every column to the left.
func Table(w io.Writer, rows [][]string) error {
	if len(rows) == 0 {
		return nil
	}
	var b strings.Builder
	t := table{left: len(rows[0]), rows: rows}
	if err := t.write(&b); err != nil {
		return err
	}
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}
