package metrics

import (
	"context"
	"time"
)

// Matcher selects series by a label, which has one of the values (or, with Not,
// none of them). A label that a series lacks is "".
type Matcher struct {
	Name   string
	Values []string
	Not    bool
}

// Is matches a label with one of the values.
func Is(name string, values ...string) Matcher { return Matcher{Name: name, Values: values} }

// IsNot matches a label with none of the values.
func IsNot(name string, values ...string) Matcher {
	return Matcher{Name: name, Values: values, Not: true}
}

// Sample is one group's answer.
type Sample struct {
	// Labels are those that the question grouped by.
	Labels map[string]string
	Value  float64
	// Covered is how much of the window the group's series were watched for: a
	// rate is Value over this.
	Covered time.Duration
}

// Querier answers what stat asks. Each method is one PromQL query.
type Querier interface {
	// Increase is sum(increase(metric{match}[window])) by (by).
	Increase(ctx context.Context, metric string, match []Matcher, by []string, window time.Duration) ([]Sample, error)
	// Sum is sum(metric{match}) by (by).
	Sum(ctx context.Context, metric string, match []Matcher, by []string) ([]Sample, error)
	// Quantiles is histogram_quantile(q, sum(increase(metric_bucket{match}[window])) by (le, by))
	// for each q; a group without observations has no answer. The result has one
	// list for each q.
	Quantiles(ctx context.Context, metric string, q []float64, match []Matcher, by []string, window time.Duration) ([][]Sample, error)
}
