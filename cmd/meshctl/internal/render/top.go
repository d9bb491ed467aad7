package render

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/top"
)

// TopOptions chooses columns.
type TopOptions struct {
	Routes, HideSources bool
	Width               int // of the terminal; 0: any
}

// Top prints rows as a table: Linkerd's columns.
func Top(w io.Writer, rows []top.Row, o TopOptions) error {
	t := table{fit: o.Width}
	var head []string
	if !o.HideSources {
		head = append(head, "Source")
	}
	head = append(head, "Destination")
	if o.Routes {
		head = append(head, "Route")
	} else {
		head = append(head, "Method", "Path")
	}
	t.left = len(head)
	t.add(append(head, "Count", "Best", "Worst", "Last", "Success Rate")...)
	for _, r := range rows {
		var cells []string
		if !o.HideSources {
			cells = append(cells, clean(r.Source))
		}
		cells = append(cells, clean(r.Destination))
		if !o.Routes {
			cells = append(cells, clean(r.Method))
		}
		t.add(append(cells, clean(r.Path), fmt.Sprint(r.Count), took(r.Best), took(r.Worst), took(r.Last), fmt.Sprintf("%.2f%%", 100*r.SuccessRate()))...)
	}
	return t.write(w)
}

// took is a duration of three digits or so.
func took(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

// TopJSON prints rows as one JSON document: a list.
func TopJSON(w io.Writer, rows []top.Row) error {
	type row struct {
		Source      string  `json:"source"`
		Destination string  `json:"destination"`
		Method      string  `json:"method"`
		Path        string  `json:"path"`
		Count       uint64  `json:"count"`
		BestUS      int64   `json:"best_us"`
		WorstUS     int64   `json:"worst_us"`
		LastUS      int64   `json:"last_us"`
		Success     float64 `json:"success"`
	}
	out := make([]row, 0, len(rows))
	for _, r := range rows {
		out = append(out, row{r.Source, r.Destination, r.Method, r.Path, r.Count, r.Best.Microseconds(), r.Worst.Microseconds(), r.Last.Microseconds(), r.SuccessRate()})
	}
	return writeJSON(w, out)
}

// Crop cuts lines to a width and a height.
func Crop(text string, width, height int) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if len(lines) == height {
			break
		}
		r := []rune(strings.TrimRight(line, " \n"))
		if len(r) > width {
			r = append(r[:max(width-1, 0)], '…')
		}
		lines = append(lines, string(r))
	}
	return lines
}
