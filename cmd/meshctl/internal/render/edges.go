package render

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/tunmesh/tunmesh/api/query"
)

// Edges prints who talks to whom: Linkerd's columns. kind is what was asked for;
// an end of another kind is named with its own.
func Edges(w io.Writer, edges []*query.Edge, kind string, wide bool) error {
	if len(edges) == 0 {
		_, err := fmt.Fprintln(w, "No edges found.")
		return err
	}
	head := []string{"SRC", "DST", "SRC_NS", "DST_NS"}
	if wide {
		head = append(head, "CLIENT_ID", "SERVER_ID")
	}
	rows := [][]string{append(head, "SECURED")}
	for _, e := range edges {
		row := []string{endName(e.GetSrc(), kind), endName(e.GetDst(), kind), e.GetSrc().GetNamespace(), e.GetDst().GetNamespace()}
		if wide {
			row = append(row, shortID(e.GetClientId()), shortID(e.GetServerId()))
		}
		rows = append(rows, append(row, cmp.Or(e.GetNoTlsReason(), "√")))
	}
	t := table{left: len(rows[0]), rows: rows}
	return t.write(w)
}

func endName(e *query.EdgeEnd, kind string) string {
	if e.GetKind() != kind {
		return e.GetKind() + "/" + e.GetName()
	}
	return e.GetName()
}

// shortID is SERVICEACCOUNT.NAMESPACE.
func shortID(id string) string {
	parts := strings.SplitN(id, ".", 3)
	if len(parts) < 2 {
		return id
	}
	return parts[0] + "." + parts[1]
}

// Edge is an edge as JSON: Linkerd's field names, then what there is besides.
type Edge struct {
	Src          string   `json:"src"`
	SrcNamespace string   `json:"src_namespace"`
	Dst          string   `json:"dst"`
	DstNamespace string   `json:"dst_namespace"`
	ClientID     string   `json:"client_id"`
	ServerID     string   `json:"server_id"`
	NoTLSReason  string   `json:"no_tls_reason"`
	SrcKind      string   `json:"src_kind"`
	DstKind      string   `json:"dst_kind"`
	Success      *float64 `json:"success"`
	RPS          *float64 `json:"rps"`
	P50          *uint64  `json:"latency_ms_p50"`
	P95          *uint64  `json:"latency_ms_p95"`
	P99          *uint64  `json:"latency_ms_p99"`
	TCPOpen      uint64   `json:"tcp_open_connections"`
	ReadBytes    float64  `json:"tcp_read_bytes_rate"`
	WriteBytes   float64  `json:"tcp_write_bytes_rate"`
}

// EdgesJSON prints edges as one JSON document: a list.
func EdgesJSON(w io.Writer, edges []*query.Edge) error {
	out := make([]Edge, 0, len(edges))
	for _, e := range edges {
		j := Edge{
			Src: e.GetSrc().GetName(), SrcNamespace: e.GetSrc().GetNamespace(), SrcKind: e.GetSrc().GetKind(),
			Dst: e.GetDst().GetName(), DstNamespace: e.GetDst().GetNamespace(), DstKind: e.GetDst().GetKind(),
			ClientID: shortID(e.GetClientId()), ServerID: shortID(e.GetServerId()), NoTLSReason: e.GetNoTlsReason(),
			TCPOpen: e.GetTcpOpenConnections(), ReadBytes: e.GetTcpReadBytesRate(), WriteBytes: e.GetTcpWriteBytesRate(),
		}
		if n := e.GetSuccessCount() + e.GetFailureCount(); n > 0 {
			j.Success, j.RPS = ptr(float64(e.GetSuccessCount())/float64(n)), ptr(e.GetRps())
			j.P50, j.P95, j.P99 = whole(e.GetLatencyMsP50()), whole(e.GetLatencyMsP95()), whole(e.GetLatencyMsP99())
		}
		out = append(out, j)
	}
	return writeJSON(w, out)
}
