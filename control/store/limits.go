package store

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
)

// Limits bound what a query may cost; the zero value of each is its default.
type Limits struct {
	// Samples in memory at once, 16 bytes each. Default 2,000,000.
	Samples int
	// Series that one query may read. Default Config.MaxSeries.
	Series int
	// Timeout of a query, waiting for its turn included. Default 20 s.
	Timeout time.Duration
	// Concurrency is how many run at once; some more wait for their turn, and others
	// are refused. Default 4.
	Concurrency int
}

func (l Limits) withDefaults(series int) Limits {
	l.Samples = cmp.Or(l.Samples, 2_000_000)
	l.Series = cmp.Or(l.Series, series)
	l.Timeout = cmp.Or(l.Timeout, 20*time.Second)
	l.Concurrency = cmp.Or(l.Concurrency, 4)
	return l
}

const (
	// maxWaiting bounds the queries that wait for their turn: those of a large
	// dashboard, twice.
	maxWaiting = 64
	// maxLength bounds a query's text, maxPoints the steps of a range, as Prometheus
	// does, and maxSubSteps those of a subquery.
	maxLength   = 16 << 10
	maxPoints   = 11_000
	maxSubSteps = 50_000
	// maxGrowth bounds how many times longer label values may become by functions that
	// copy them: nested, they double with each.
	maxGrowth = 64
	// subqueryStep holds where a subquery names none.
	subqueryStep = 15 * time.Second
)

// check reads a query over a span of time and refuses what would cost too much
// whatever the data.
func check(p parser.Parser, query string, span, step time.Duration) error {
	if len(query) > maxLength {
		return fmt.Errorf("the query is %d bytes long: at most %d", len(query), maxLength)
	}
	if span < 0 {
		return errors.New("the end is before the start")
	}
	if step > 0 && span/step >= maxPoints {
		return fmt.Errorf("%v in steps of %v are more than %d points: make the step longer", span, step, maxPoints)
	}
	expr, err := p.ParseExpr(query)
	if err != nil {
		return fmt.Errorf("parse the query: %w", err)
	}
	return affordable(expr, span, 1)
}

// affordable walks down with the span that a node is evaluated over, and by how much
// the nodes above make label values longer.
func affordable(n parser.Node, span time.Duration, growth int) error {
	switch n := n.(type) {
	case *parser.SubqueryExpr:
		span += n.Range
		step := cmp.Or(n.Step, subqueryStep)
		if span/step > maxSubSteps {
			return fmt.Errorf("a subquery over %v in steps of %v has more than %d: make the step longer", span, step, maxSubSteps)
		}
	case *parser.MatrixSelector:
		span += n.Range
	case *parser.Call:
		if growth *= factor(n); growth > maxGrowth {
			return fmt.Errorf("%s would make label values more than %d times longer", n.Func.Name, maxGrowth)
		}
	}
	for child := range parser.ChildrenIter(n) {
		if err := affordable(child, span, growth); err != nil {
			return err
		}
	}
	return nil
}

// factor is how many copies of a label's value a function may put into one.
func factor(c *parser.Call) int {
	switch c.Func.Name {
	case "label_replace":
		if len(c.Args) == 5 {
			if s, ok := c.Args[2].(*parser.StringLiteral); ok {
				return max(1, strings.Count(s.Val, "$"))
			}
		}
	case "label_join":
		return max(1, len(c.Args)-3)
	}
	return 1
}
