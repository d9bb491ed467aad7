package load

import "time"

// warmUp is left out of every measurement.
const warmUp = 300 * time.Millisecond

// Result is what a client measured. Latencies are microseconds.
type Result struct {
	Connections int     `json:"connections"`
	Seconds     float64 `json:"seconds"`
	Count       uint64  `json:"count,omitempty"`  // round trips or connections after the warm-up
	All         uint64  `json:"all,omitempty"`    // with the warm-up: what the CPU was spent on
	Failed      uint64  `json:"failed,omitempty"` // answers that were errors, warm-up included
	Rate        float64 `json:"rate,omitempty"`   // of Count, per second
	P50         float64 `json:"p50_us,omitempty"`
	P90         float64 `json:"p90_us,omitempty"`
	P99         float64 `json:"p99_us,omitempty"`
	P999        float64 `json:"p999_us,omitempty"`
	Max         float64 `json:"max_us,omitempty"`
	Gbit        float64 `json:"gbit,omitempty"`
	AllBytes    uint64  `json:"allBytes,omitempty"` // bulk: with the warm-up
	Retransmits uint64  `json:"retransmits"`
	// Histogram of the latencies: HdrHistogram, V2, compressed, base64.
	Histogram string `json:"histogram,omitempty"`
}
