package load

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// unit is the resolution of what is recorded, longest the most that is kept apart.
const (
	unit    = 100 * time.Nanosecond
	longest = time.Minute
)

// histogram counts latencies to three digits.
type histogram struct{ h *hdrhistogram.Histogram }

func newHistogram() histogram {
	return histogram{hdrhistogram.New(1, int64(longest/unit), 3)}
}

func (h histogram) add(d time.Duration) {
	_ = h.h.RecordValue(int64(min(max(d, unit), longest-unit) / unit)) // within its range
}

// at is a quantile in microseconds.
func (h histogram) at(q float64) float64 {
	return float64(h.h.ValueAtQuantile(q)) * float64(unit) / 1e3
}

func (h histogram) fill(r *Result, took time.Duration) {
	r.Seconds = took.Seconds()
	r.Count = uint64(h.h.TotalCount())
	r.Rate = float64(r.Count) / took.Seconds()
	r.P50, r.P90, r.P99, r.P999 = h.at(50), h.at(90), h.at(99), h.at(99.9)
	r.Max = float64(h.h.Max()) * float64(unit) / 1e3
	if r.Count > 0 {
		if raw, err := h.h.Encode(hdrhistogram.V2CompressedEncodingCookieBase); err == nil {
			r.Histogram = string(raw)
		}
	}
}

// Quantiles reads a Result's histogram at some percentiles, in microseconds;
// nil when it has none.
func Quantiles(encoded string, percentiles []float64) []float64 {
	if encoded == "" {
		return nil
	}
	h, err := hdrhistogram.Decode([]byte(encoded))
	if err != nil {
		return nil
	}
	out := make([]float64, len(percentiles))
	for i, p := range percentiles {
		out[i] = histogram{h}.at(p)
	}
	return out
}
