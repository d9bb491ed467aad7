package metrics

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
)

// answering is a PromQL that remembers what it was asked, and answers with one series.
type answering struct {
	asked  []string
	labels model.Metric
}

func (a *answering) Instant(_ context.Context, q string, _ time.Time) (model.Vector, error) {
	a.asked = append(a.asked, q)
	return model.Vector{{Metric: a.labels, Value: 3}}, nil
}
func (*answering) Range(context.Context, string, Range) (model.Matrix, error) { return nil, nil }
func (*answering) Since() time.Time                                           { return time.Time{} }

// TestJobsInWhatIsKept: there the label job is Prometheus' own, so that the Job of a
// pod has another name; who asks does not notice.
func TestJobsInWhatIsKept(t *testing.T) {
	own := map[string]string{"namespace": "shop", "pod": "backup-29-x", "job": "backup-29", "cronjob": "backup"}
	got := storedAs(own)
	want := map[string]string{"namespace": "shop", "pod": "backup-29-x", "job": "mesh-proxy", "job_name": "backup-29", "cronjob": "backup"}
	if !maps.Equal(got, want) || own["job"] != "backup-29" {
		t.Errorf("kept as %v of %v, want %v", got, own, want)
	}
	if got := storedAs(map[string]string{"deployment": "web"}); !maps.Equal(got, map[string]string{"deployment": "web", "job": "mesh-proxy"}) {
		t.Errorf("a Deployment's pod is kept as %v", got)
	}

	p := &answering{labels: model.Metric{"namespace": "shop", "job_name": "backup-29"}}
	a := Asker{PromQL: p}
	match, by := []Matcher{Is("namespace", "shop"), Is("job", "backup-29"), Is("dst_job", "x")}, []string{"namespace", "job"}
	for what, ask := range map[string]func() ([]Sample, error){
		"sum":      func() ([]Sample, error) { return a.Sum(t.Context(), "m", match, by) },
		"increase": func() ([]Sample, error) { return a.Increase(t.Context(), "m", match, by, time.Hour) },
		"quantiles": func() ([]Sample, error) {
			all, err := a.Quantiles(t.Context(), "m", []float64{0.5}, match, by, time.Hour)
			return all[0], err
		},
	} {
		list, err := ask()
		if err != nil || len(list) != 1 || !maps.Equal(list[0].Labels, map[string]string{"namespace": "shop", "job": "backup-29"}) {
			t.Errorf("%s: %v, %v", what, list, err)
		}
		q := p.asked[len(p.asked)-1]
		if !strings.Contains(q, `{namespace="shop",job_name="backup-29",dst_job="x"}`) || !strings.Contains(q, "namespace,job_name)") {
			t.Errorf("%s asks %s", what, q)
		}
	}
}
