package render

import (
	"cmp"
	"fmt"
	"io"
	"time"

	"github.com/tunmesh/tunmesh/api/query"
)

// Connections prints a pod's connections, each as it is now.
func Connections(w io.Writer, r *query.ConnectionsResponse) error {
	if len(r.GetRows()) == 0 {
		_, err := fmt.Fprintln(w, "No connections found.")
		return err
	}
	t := table{left: 5}
	t.add("DIRECTION", "PROTOCOL", "PEER", "REMOTE", "SECURED", "AGE", "RTT", "RETRANSMITS", "READ", "WRITTEN")
	for _, row := range r.GetRows() {
		c := row.GetConnection()
		secured := "√"
		if c.GetLabels()["tls"] != "true" {
			secured = cmp.Or(c.GetLabels()["no_tls_reason"], c.GetLabels()["tls"], "-")
		}
		rtt := "-"
		if us := c.GetRttUs(); us > 0 {
			rtt = short(us)
		}
		t.add(c.GetDirection(), c.GetProtocol(), cmp.Or(row.GetPeer(), "-"), c.GetRemote(), secured,
			age(c.GetAgeUs()), rtt, fmt.Sprint(c.GetRetransmits()), size(c.GetBytesIn()), size(c.GetBytesOut()))
	}
	return t.write(w)
}

// age is how long something has been there, as people say it.
func age(us uint64) string {
	d := time.Duration(us) * time.Microsecond //nolint:gosec // some 290,000 years
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0fm", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0fh", d.Hours())
	}
	return fmt.Sprintf("%.0fd", d.Hours()/24)
}

// short is a round trip's length.
func short(us uint64) string {
	if us < 1000 {
		return fmt.Sprintf("%dµs", us)
	}
	return fmt.Sprintf("%.1fms", float64(us)/1000)
}

// size is how many bytes, with the unit that fits.
func size(n uint64) string {
	f, unit := float64(n), 0
	for units := "KMGT"; f >= 1000 && unit < len(units); unit++ {
		f /= 1000
	}
	if unit == 0 {
		return fmt.Sprintf("%dB", n)
	}
	return fmt.Sprintf("%.1f%cB", f, "KMGT"[unit-1])
}

// Connection is a connection as JSON.
type Connection struct {
	Direction   string            `json:"direction"`
	Protocol    string            `json:"protocol"`
	Local       string            `json:"local"`
	Remote      string            `json:"remote"`
	Peer        string            `json:"peer"` // "": no pod that is known
	Age         float64           `json:"age_seconds"`
	RTT         float64           `json:"rtt_ms"` // 0: not measured
	BytesIn     uint64            `json:"bytes_in"`
	BytesOut    uint64            `json:"bytes_out"`
	Retransmits uint64            `json:"retransmits"`
	Timeouts    uint64            `json:"timeouts"`
	OutOfOrder  uint64            `json:"out_of_order"`
	ZeroWindows uint64            `json:"zero_windows"`
	Dropped     uint64            `json:"dropped"`
	Labels      map[string]string `json:"labels"`
}

// ConnectionsJSON prints connections as one JSON document.
func ConnectionsJSON(w io.Writer, r *query.ConnectionsResponse) error {
	out := struct {
		Connections []Connection `json:"connections"`
		Total       uint64       `json:"total"` // listed or not
	}{make([]Connection, 0, len(r.GetRows())), r.GetTotal()}
	for _, row := range r.GetRows() {
		c := row.GetConnection()
		labels := c.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		out.Connections = append(out.Connections, Connection{
			Direction: c.GetDirection(), Protocol: c.GetProtocol(), Local: c.GetLocal(), Remote: c.GetRemote(), Peer: row.GetPeer(),
			Age: float64(c.GetAgeUs()) / 1e6, RTT: float64(c.GetRttUs()) / 1e3, BytesIn: c.GetBytesIn(), BytesOut: c.GetBytesOut(),
			Retransmits: c.GetRetransmits(), Timeouts: c.GetTimeouts(), OutOfOrder: c.GetOutOfOrder(), ZeroWindows: c.GetZeroWindows(),
			Dropped: c.GetDropped(), Labels: labels,
		})
	}
	return writeJSON(w, out)
}
