// Package store keeps what was scraped and answers PromQL. It owns a Prometheus
// time series database on a folder of its own (Store), the engine that evaluates
// queries over it, the bounds of both, the HTTP API of Prometheus over it, and the
// same questions put to a Prometheus of somebody else's (External). It refuses to
// know who scrapes (control/metrics), who may ask (control/extension) and what a
// row of stat is (control/query).
//
// A page of metrics goes in by Insert:
//
//  1. Its lines are read one at a time. A line that the target had before is known
//     by its text, and costs a look-up and a sample.
//  2. A new one becomes a series with the target's labels, unless there are too
//     many. A counter that is new in a target that was there before began at 0, which
//     is written as well: increase() then counts its first value.
//  3. Series that are no longer on the page end, so do all of a target that does not
//     answer or is gone. A gauge has no value after that.
//
// What everybody asks for is evaluated once for all and kept as well (Record).
//
// What a query may cost is bounded before it runs (Check) and while it does: series
// that it reads, samples in memory, time, and queries at once.
package store
