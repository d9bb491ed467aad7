package telemetry

import (
	"strconv"
	"strings"
)

// Kind is a family's TYPE.
type Kind string

// The kinds.
const (
	counter   Kind = "counter"
	gauge     Kind = "gauge"
	histogram Kind = "histogram"
)

// pieceSize is that of a text's pieces. One that grows as a whole leaves several
// times its size as garbage, in the smallest of heaps, and hundreds of endpoints
// in use make a text of megabytes.
const pieceSize = 16 << 10

// text builds an exposition (Prometheus text format 0.0.4), in pieces.
type text struct {
	b    []byte // the last piece
	full [][]byte
}

// room begins another piece when the last one is full, but for a line.
func (t *text) room() {
	if len(t.b) > pieceSize-1<<10 {
		t.full = append(t.full, t.b)
		t.b = make([]byte, 0, pieceSize)
	}
}

// pieces is the whole text.
func (t *text) pieces() [][]byte { return append(t.full, t.b) }

func (t *text) family(name, help string, k Kind) {
	t.room()
	t.b = append(t.b, "# HELP "...)
	t.b = append(t.b, name...)
	t.b = append(t.b, ' ')
	for i := range len(help) { // HELP escapes backslash and line feed only
		switch c := help[i]; c {
		case '\\':
			t.b = append(t.b, `\\`...)
		case '\n':
			t.b = append(t.b, `\n`...)
		default:
			t.b = append(t.b, c)
		}
	}
	t.b = append(t.b, "\n# TYPE "...)
	t.b = append(t.b, name...)
	t.b = append(t.b, ' ')
	t.b = append(t.b, k...)
	t.b = append(t.b, '\n')
}

// head writes a sample up to its value; labels and more are rendered.
func (t *text) head(name, labels, more string) {
	t.room()
	t.b = append(t.b, name...)
	if labels != "" || more != "" {
		t.b = append(t.b, '{')
		t.b = append(t.b, labels...)
		if labels != "" && more != "" {
			t.b = append(t.b, ',')
		}
		t.b = append(t.b, more...)
		t.b = append(t.b, '}')
	}
	t.b = append(t.b, ' ')
}

func (t *text) sample(name, labels, more string, v uint64) {
	t.head(name, labels, more)
	t.b = strconv.AppendUint(t.b, v, 10)
	t.b = append(t.b, '\n')
}

func (t *text) signed(name, labels, more string, v int64) {
	t.head(name, labels, more)
	t.b = strconv.AppendInt(t.b, v, 10)
	t.b = append(t.b, '\n')
}

func (t *text) float(name, labels, more string, v float64) {
	t.head(name, labels, more)
	t.b = strconv.AppendFloat(t.b, v, 'g', -1, 64)
	t.b = append(t.b, '\n')
}

// latency writes a histogram's samples. The sum is in milliseconds, as whole
// as it was measured.
func (t *text) latency(name, labels, more string, h *Latency) {
	var n uint64
	for i := range h.buckets {
		n += h.buckets[i].Load()
		t.room()
		t.b = append(t.b, name...)
		t.b = append(t.b, "_bucket{"...)
		for _, l := range []string{labels, more} {
			if l != "" {
				t.b = append(t.b, l...)
				t.b = append(t.b, ',')
			}
		}
		t.b = append(t.b, `le="`...)
		if i < len(bounds) {
			t.b = strconv.AppendUint(t.b, uint64(bounds[i]), 10)
		} else {
			t.b = append(t.b, "+Inf"...)
		}
		t.b = append(t.b, `"} `...)
		t.b = strconv.AppendUint(t.b, n, 10)
		t.b = append(t.b, '\n')
	}
	t.sample(name+"_count", labels, more, n)
	t.float(name+"_sum", labels, more, float64(h.sum.Load())/1000)
}

// appendLabel adds name="value" to rendered labels. Values may hold anything;
// bytes that are not UTF-8 are replaced, as the format demands.
func appendLabel(b []byte, name, value string) []byte {
	if len(b) > 0 {
		b = append(b, ',')
	}
	b = append(b, name...)
	b = append(b, `="`...)
	b = appendEscaped(b, value)
	return append(b, '"')
}

func appendEscaped(b []byte, v string) []byte {
	for _, r := range v { // an invalid byte yields U+FFFD
		switch r {
		case '\\':
			b = append(b, `\\`...)
		case '"':
			b = append(b, `\"`...)
		case '\n':
			b = append(b, `\n`...)
		default:
			b = append(b, string(r)...)
		}
	}
	return b
}

// labelName makes a valid label name of s: what may not stand in one becomes '_'.
func labelName(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_':
			return r
		}
		return '_'
	}, s)
}

// Writer is how a collector writes families.
type Writer struct{ t *text }

// A Label is one name and value.
type Label struct{ Name, Value string }

// Counter begins a family of counters; Sample follows.
func (w *Writer) Counter(name, help string) { w.t.family(name, help, counter) }

// Gauge begins a family of gauges; Sample follows.
func (w *Writer) Gauge(name, help string) { w.t.family(name, help, gauge) }

// Sample writes one sample of the family begun last.
func (w *Writer) Sample(name string, value float64, labels ...Label) {
	var b []byte
	for _, l := range labels {
		b = appendLabel(b, labelName(l.Name), l.Value)
	}
	if value >= 0 && value < 1<<53 && value == float64(uint64(value)) {
		w.t.sample(name, string(b), "", uint64(value))
		return
	}
	w.t.float(name, string(b), "", value)
}
