package query

import (
	"fmt"
	"time"

	"github.com/tunmesh/tunmesh/control/metrics"
)

// RecordStep is the step of the series that are recorded: those of the console's
// overview, which are of all workloads and asked for by everybody who opens it.
const RecordStep = 15 * time.Second

// Names of what is recorded, as recording rules are named.
const (
	recordedRequests = "namespace_workload:response_total:rate30s"
	recordedBuckets  = "namespace_workload:response_latency_ms_bucket:rate30s"
)

// Recordings are the rates of all workloads, to be evaluated at each multiple of
// RecordStep. They are what Series asks without them, summed up by workload: of
// thousands of pods this is a hundredth of the series.
func Recordings() []metrics.Recording {
	by := []string{"namespace"}
	for _, k := range owners() {
		by = append(by, string(k))
	}
	from, _ := overTime(question{match: received()}, RecordStep)
	sum := func(rate, more string) string {
		return fmt.Sprintf("sum(%s) by (%s,%s)", rate, metrics.StoredList(by), more)
	}
	return []metrics.Recording{{Name: recordedRequests, Query: sum(from.requests, "classification")}, {Name: recordedBuckets, Query: sum(from.buckets, "le")}}
}

// recorded are the rates of workloads where they are recorded: each of its step and of
// no other, so that a step that was left out is not taken for the one before.
func recorded(sel selection) (r rates, some bool) {
	selector, some := metrics.Selector(sel.match(""))
	of := func(name string) string { return fmt.Sprintf("last_over_time(%s%s[%s])", name, selector, RecordStep) }
	return rates{requests: of(recordedRequests), buckets: of(recordedBuckets)}, some
}
