package tracing_test

import (
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/tunproxy/message"
	"github.com/tunmesh/tunmesh/tunproxy/tracing"
)

// head makes fields of pairs.
func head(pairs ...string) (fs []message.Field) {
	for i := 0; i < len(pairs); i += 2 {
		fs = append(fs, message.Field{Name: pairs[i], Value: pairs[i+1]})
	}
	return fs
}

const (
	trace  = "0af7651916cd43dd8448eb211c80319c"
	span   = "b7ad6b7169203331"
	parent = "00-" + trace + "-" + span + "-01"
	// bin says the same.
	bin = "AAAK92UZFs1D3YRI6yEcgDGcAbeta3FpIDMxAgE"
)

func TestExtract(t *testing.T) {
	for _, c := range []struct {
		name     string
		fields   []message.Field
		trace    string
		span     string
		decision tracing.Decision
	}{
		{"nothing", head("a", "b", "b4", "1", "accept-text", "x", "content-type", "y"), "", "", tracing.Undecided},
		{"w3c", head("traceparent", parent), trace, span, tracing.Sampled},
		{"w3c, spelled as HTTP/1 does", head("TraceParent", parent), trace, span, tracing.Sampled},
		{"w3c, not sampled", head("traceparent", parent[:53]+"00"), trace, span, tracing.Dropped},
		{"w3c, other flags", head("traceparent", parent[:53]+"fe"), trace, span, tracing.Dropped},
		{"w3c, later version", head("traceparent", "cc"+parent[2:]+"-more"), trace, span, tracing.Sampled},
		{"w3c, later version that goes on otherwise", head("traceparent", "cc"+parent[2:]+"more"), "", "", tracing.Undecided},
		{"w3c, too long", head("traceparent", parent+"-"), "", "", tracing.Undecided},
		{"w3c, version ff", head("traceparent", "ff"+parent[2:]), "", "", tracing.Undecided},
		{"w3c, upper case", head("traceparent", "00-0AF7651916cd43dd8448eb211c80319c-"+span+"-01"), "", "", tracing.Undecided},
		{"w3c, no trace", head("traceparent", "00-00000000000000000000000000000000-"+span+"-01"), "", "", tracing.Undecided},
		{"w3c, no span", head("traceparent", "00-"+trace+"-0000000000000000-01"), "", "", tracing.Undecided},
		{"w3c, twice", head("traceparent", parent, "traceparent", parent), "", "", tracing.Undecided},
		{"w3c malformed, b3 not", head("traceparent", "x", "b3", trace+"-"+span+"-0"), trace, span, tracing.Dropped},
		{"w3c before b3", head("b3", "00000000000000010000000000000001-0000000000000002-0", "traceparent", parent), trace, span, tracing.Sampled},
		{"b3", head("b3", trace+"-"+span+"-1-05e3ac9a4f6e3b90"), trace, span, tracing.Sampled},
		{"b3, debug", head("b3", trace+"-"+span+"-d"), trace, span, tracing.Sampled},
		{"b3, undecided", head("b3", trace+"-"+span), trace, span, tracing.Undecided},
		{"b3, short", head("b3", trace[16:]+"-"+span+"-1"), "0000000000000000" + trace[16:], span, tracing.Sampled},
		{"b3, no parent", head("b3", trace+"-"+span+"-1-"), "", "", tracing.Undecided},
		{"b3, no such decision", head("b3", trace+"-"+span+"-2"), "", "", tracing.Undecided},
		{"b3, decision alone", head("b3", "0"), "", "", tracing.Dropped},
		{"b3, debug alone", head("b3", "d"), "", "", tracing.Sampled},
		{"b3 in several", head("X-B3-TraceId", trace, "X-B3-SpanId", span, "X-B3-ParentSpanId", "05e3ac9a4f6e3b90", "X-B3-Sampled", "1"), trace, span, tracing.Sampled},
		{"b3 in several, debug", head("x-b3-traceid", trace, "x-b3-spanid", span, "x-b3-flags", "1"), trace, span, tracing.Sampled},
		{"b3 in several, undecided", head("x-b3-traceid", trace, "x-b3-spanid", span), trace, span, tracing.Undecided},
		{"b3 in several, decision alone", head("x-b3-sampled", "false"), "", "", tracing.Dropped},
		{"b3 in several, no span", head("x-b3-traceid", trace, "x-b3-sampled", "1"), "", "", tracing.Sampled},
		{"bin", head("grpc-trace-bin", bin), trace, span, tracing.Sampled},
		{"bin, padded", head("grpc-trace-bin", bin+"="), trace, span, tracing.Sampled},
		{"bin, cut", head("grpc-trace-bin", bin[:38]), "", "", tracing.Undecided},
		{"bin, other version", head("grpc-trace-bin", "AQ"+bin[2:]), "", "", tracing.Undecided},
	} {
		p := tracing.Extract(c.fields)
		var gotTrace, gotSpan string
		if p.Trace != (tracing.TraceID{}) {
			gotTrace, gotSpan = p.Trace.String(), p.Span.String()
		}
		if gotTrace != c.trace || gotSpan != c.span || p.Decision != c.decision || p.ID() != strings.TrimPrefix(c.trace, "0000000000000000") {
			t.Errorf("%s: trace %q, span %q, decision %d", c.name, gotTrace, gotSpan, p.Decision)
		}
	}
}

func get(fs []message.Field, name string) string {
	h := message.Head{Fields: fs}
	v, _ := h.Get(name)
	return v
}

// TestInject: a trace goes on in the formats that it came in, and nothing of what
// was said before is left.
func TestInject(t *testing.T) {
	tr := tracing.New(tracing.Config{Ratio: 1})
	through := func(pairs ...string) (*tracing.Span, []message.Field) {
		fs := head(pairs...)
		p := tracing.Extract(fs)
		s := tr.Begin(&p)
		if s.Parent != p.Span || p.Trace != (tracing.TraceID{}) && s.Trace != p.Trace || s.ID == (tracing.SpanID{}) || s.ID == p.Span {
			t.Errorf("%v: span %+v", pairs, s)
		}
		return s, s.Inject(fs, &p)
	}
	same := func(got []message.Field, want ...string) {
		t.Helper()
		w := head(want...)
		if len(got) != len(w) {
			t.Errorf("%v, want %v", got, w)
			return
		}
		for i := range w {
			if got[i] != w[i] {
				t.Errorf("%v, want %v", got[i], w[i])
			}
		}
	}
	s, fs := through("a", "b")
	same(fs, "a", "b", "traceparent", "00-"+s.Trace.String()+"-"+s.ID.String()+"-01")
	s, fs = through("Accept", "b")
	same(fs, "Accept", "b", "Traceparent", "00-"+s.Trace.String()+"-"+s.ID.String()+"-01")
	s, fs = through("traceparent", parent, "a", "b", "tracestate", "v=1")
	same(fs, "a", "b", "tracestate", "v=1", "traceparent", "00-"+trace+"-"+s.ID.String()+"-01")
	s, fs = through("traceparent", parent[:53]+"03")
	same(fs, "traceparent", "00-"+trace+"-"+s.ID.String()+"-03")
	s, fs = through("traceparent", "malformed", "tracestate", "v=1")
	same(fs, "traceparent", "00-"+s.Trace.String()+"-"+s.ID.String()+"-01")
	s, fs = through("b3", trace+"-"+span+"-1-05e3ac9a4f6e3b90")
	same(fs, "b3", trace+"-"+s.ID.String()+"-1-"+span)
	s, fs = through("b3", trace[16:]+"-"+span+"-d")
	same(fs, "b3", trace[16:]+"-"+s.ID.String()+"-d-"+span)
	s, fs = through("b3", "1")
	same(fs, "b3", s.Trace.String()+"-"+s.ID.String()+"-1")
	s, fs = through("X-B3-TraceId", trace, "X-B3-SpanId", span, "X-B3-ParentSpanId", "05e3ac9a4f6e3b90")
	same(fs, "X-B3-Traceid", trace, "X-B3-Spanid", s.ID.String(), "X-B3-Parentspanid", span, "X-B3-Sampled", "1")
	s, fs = through("x-b3-traceid", trace, "x-b3-spanid", span, "x-b3-flags", "1")
	same(fs, "x-b3-traceid", trace, "x-b3-spanid", s.ID.String(), "x-b3-parentspanid", span, "x-b3-flags", "1")
	s, fs = through("grpc-trace-bin", bin, "traceparent", parent)
	p := tracing.Extract(head("grpc-trace-bin", get(fs, "grpc-trace-bin")))
	if p.Trace != s.Trace || p.Span != s.ID || p.Decision != tracing.Sampled || get(fs, "traceparent") != "00-"+trace+"-"+s.ID.String()+"-01" || len(fs) != 2 {
		t.Errorf("%v", fs)
	}
}

// FuzzExtract: whatever comes is continued so that it is understood.
func FuzzExtract(f *testing.F) {
	f.Add("traceparent", parent, "tracestate", "a=b,c=d", "b3", "0")
	f.Add("b3", trace+"-"+span+"-1-"+span, "X-B3-TraceId", trace, "x-b3-spanid", span)
	f.Add("grpc-trace-bin", bin+"=", "x-b3-sampled", "1", "x-b3-flags", "1")
	tr := tracing.New(tracing.Config{Ratio: 1})
	f.Fuzz(func(t *testing.T, a, av, b, bv, c, cv string) {
		fs := head(a, av, b, bv, c, cv)
		p := tracing.Extract(fs)
		if p.ID() != "" && p.Trace == (tracing.TraceID{}) {
			t.Fatalf("%v: an id of a trace that is none", fs)
		}
		s := tr.Begin(&p)
		out := s.Inject(append([]message.Field(nil), fs...), &p)
		q := tracing.Extract(out)
		if q.Trace != s.Trace || q.Span != s.ID || q.Decision != tracing.Sampled {
			t.Fatalf("%v became %v", fs, out)
		}
	})
}

func TestSample(t *testing.T) {
	for _, ratio := range []float64{-1, 0, 0.25, 1, 2} {
		tr := tracing.New(tracing.Config{Ratio: ratio})
		const n = 20_000
		sampled := 0
		for range n {
			if tr.Sample(&tracing.Parent{}) {
				sampled++
			}
		}
		if got, want := float64(sampled)/n, min(max(ratio, 0), 1); got < want-0.02 || got > want+0.02 {
			t.Errorf("ratio %v: %v", ratio, got)
		}
		if !tr.Sample(&tracing.Parent{Decision: tracing.Sampled}) || tr.Sample(&tracing.Parent{Decision: tracing.Dropped}) {
			t.Errorf("ratio %v: the parent's decision is not respected", ratio)
		}
	}
}

// TestUnsampledAllocatesNothing with a parent or without.
func TestUnsampledAllocatesNothing(t *testing.T) {
	tr := tracing.New(tracing.Config{})
	for _, fs := range [][]message.Field{
		head("host", "a", "user-agent", "b", "accept", "*/*"),
		head("host", "a", "traceparent", parent[:53]+"00", "tracestate", "a=b"),
		head("b3", trace+"-"+span+"-0"), head("x-b3-traceid", trace, "x-b3-spanid", span, "x-b3-sampled", "0"),
		head("grpc-trace-bin", bin[:38]+"A"),
	} {
		if n := testing.AllocsPerRun(100, func() {
			if p := tracing.Extract(fs); tr.Sample(&p) {
				t.Error("sampled")
			}
		}); n > 0 {
			t.Errorf("%v: %v allocations", fs, n)
		}
	}
}
