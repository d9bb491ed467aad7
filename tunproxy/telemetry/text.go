package telemetry

import (
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"
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

// text builds an exposition in pieces: in the Prometheus text format 0.0.4, or
// as OpenMetrics 1.0.0.
type text struct {
	b     []byte // the last piece
	full  [][]byte
	spare []byte // of a piece that is used
	open  bool   // OpenMetrics

	// The family that the next sample begins; "" when that is written.
	name, help string
	kind       Kind
}

// room begins another piece when the last one is full, but for a line.
func (t *text) room() {
	if len(t.b) > pieceSize-1<<10 {
		t.cut()
	}
	if t.b == nil {
		t.b, t.spare = t.spare, nil
		if t.b == nil {
			t.b = make([]byte, 0, pieceSize)
		}
	}
}

// cut ends the last piece.
func (t *text) cut() {
	if len(t.b) > 0 {
		t.full = append(t.full, t.b)
		t.b = nil
	}
}

// end ends the text.
func (t *text) end() {
	if t.open {
		t.room()
		t.b = append(t.b, "# EOF\n"...)
	}
	t.cut()
}

// take is the first piece that is full, which is the caller's; nil: none is.
func (t *text) take() []byte {
	if len(t.full) == 0 {
		return nil
	}
	b := t.full[0]
	t.full = slices.Delete(t.full, 0, 1) // of one or two
	return b
}

// reuse gives a piece back.
func (t *text) reuse(b []byte) { t.spare = b[:0] }

// family names the one that the following samples are of. One without samples is
// not printed.
func (t *text) family(name, help string, k Kind) { t.name, t.help, t.kind = name, help, k }

// begin writes what comes before a family's first sample.
func (t *text) begin() {
	t.room()
	name := t.name
	if t.open && t.kind == counter {
		name = strings.TrimSuffix(name, "_total")
	}
	t.b = append(t.b, "# HELP "...)
	t.b = append(t.b, name...)
	t.b = append(t.b, ' ')
	for i := range len(t.help) { // HELP escapes backslash and line feed, and in OpenMetrics the quote
		switch c := t.help[i]; {
		case c == '\\':
			t.b = append(t.b, `\\`...)
		case c == '\n':
			t.b = append(t.b, `\n`...)
		case c == '"' && t.open:
			t.b = append(t.b, `\"`...)
		default:
			t.b = append(t.b, c)
		}
	}
	t.b = append(t.b, "\n# TYPE "...)
	t.b = append(t.b, name...)
	t.b = append(t.b, ' ')
	t.b = append(t.b, t.kind...)
	t.b = append(t.b, '\n')
	t.name = ""
}

// line makes room for a sample's.
func (t *text) line() {
	if t.name != "" {
		t.begin()
	}
	t.room()
}

// head writes a sample up to its value; labels and more are rendered.
func (t *text) head(name, labels, more string) {
	t.line()
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

// bucket writes a bucket of a histogram, up to its end.
func (t *text) bucket(name, labels, more, le string, n uint64) {
	t.line()
	t.b = append(t.b, name...)
	t.b = append(t.b, "_bucket{"...)
	for _, l := range [2]string{labels, more} {
		if l != "" {
			t.b = append(t.b, l...)
			t.b = append(t.b, ',')
		}
	}
	t.b = append(t.b, `le="`...)
	t.b = append(t.b, le...)
	if t.open && le != "+Inf" && strings.IndexByte(le, '.') < 0 {
		t.b = append(t.b, ".0"...)
	}
	t.b = append(t.b, `"} `...)
	t.b = strconv.AppendUint(t.b, n, 10)
}

// latency writes a histogram's samples. The sum is in milliseconds, as whole
// as it was measured.
func (t *text) latency(name, labels, more string, h *Latency) {
	var n uint64
	for i := range h.buckets {
		n += h.buckets[i].Load()
		le := "+Inf"
		if i < len(bounds) {
			le = boundNames[i]
		}
		t.bucket(name, labels, more, le, n)
		if t.open {
			t.exemplar(h.exemplar(i))
		}
		t.b = append(t.b, '\n')
	}
	t.sample(name+"_count", labels, more, n)
	t.float(name+"_sum", labels, more, float64(h.sum.Load())/1000)
}

// histogram writes one's samples. With several, they are those of all together.
func (t *text) histogram(name, labels, more string, s *scale, all ...*Histogram) {
	var n, sum uint64
	for _, h := range all {
		sum += h.sum.Load()
	}
	for i := 0; i <= len(s.limits); i++ {
		for _, h := range all {
			n += h.buckets[i].Load()
		}
		le := "+Inf"
		if i < len(s.limits) {
			le = s.names[i]
		}
		t.bucket(name, labels, more, le, n)
		t.b = append(t.b, '\n')
	}
	t.sample(name+"_count", labels, more, n)
	t.float(name+"_sum", labels, more, float64(sum)/s.unit)
}

func (t *text) exemplar(e *exemplar) {
	if e == nil {
		return
	}
	t.b = append(t.b, ` # {trace_id="`...)
	t.b = hex.AppendEncode(t.b, e.trace[:])
	t.b = append(t.b, `"} `...)
	t.b = strconv.AppendFloat(t.b, float64(e.took)/float64(time.Millisecond), 'g', -1, 64)
	t.b = append(t.b, ' ')
	t.b = strconv.AppendFloat(t.b, float64(e.at.UnixMilli())/1000, 'f', 3, 64)
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

// parseLabels reads what appendLabel made.
func parseLabels(s string) map[string]string {
	all := map[string]string{}
	for s != "" {
		name, rest, ok := strings.Cut(s, `="`)
		if !ok {
			break
		}
		var v []byte
		i := 0
		for ; i < len(rest) && rest[i] != '"'; i++ {
			if rest[i] == '\\' && i+1 < len(rest) {
				if i++; rest[i] == 'n' {
					v = append(v, '\n')
					continue
				}
			}
			v = append(v, rest[i])
		}
		all[name] = string(v)
		s = strings.TrimPrefix(rest[min(i+1, len(rest)):], ",")
	}
	return all
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
