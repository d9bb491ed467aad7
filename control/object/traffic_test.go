package object

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// annotated is a Service with annotations, as name, value, name, value.
func annotated(pairs ...string) *corev1.Service {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "n", Annotations: m}}
}

// reads holds a Service's annotations to what is read, and to what the warning
// names; "" is no warning.
func reads(t *testing.T, want *catalog.Traffic, warning string, pairs ...string) {
	t.Helper()
	s, err := Service(annotated(pairs...))
	if !s.Traffic.Equal(want) {
		t.Errorf("%v: got %+v, want %+v", pairs, s.Traffic, want)
	}
	switch {
	case warning == "" && err != nil:
		t.Errorf("%v: %v", pairs, err)
	case warning != "" && (err == nil || !strings.Contains(err.Error(), warning) || !strings.Contains(err.Error(), "ignored")):
		t.Errorf("%v: warning %v, want one of %s", pairs, err, warning)
	}
}

func TestTimeouts(t *testing.T) {
	timeouts := func(request, response, idle time.Duration) *catalog.Traffic {
		return &catalog.Traffic{Timeouts: catalog.Timeouts{Request: request, Response: response, Idle: idle}}
	}
	const request, linkerds = "timeout.tunmesh.io/request", "timeout.linkerd.io/request"
	reads(t, nil, "")
	reads(t, nil, "", request, "0")
	reads(t, nil, "", request, "0s")
	reads(t, timeouts(time.Second, 200*time.Millisecond, 5*time.Minute), "",
		request, "1s", "timeout.tunmesh.io/response", " 200ms ", "timeout.tunmesh.io/idle", "5m")
	reads(t, timeouts(2*time.Hour, 0, 0), "", linkerds, "2h")
	reads(t, timeouts(time.Second, 0, 0), "", linkerds, "2h", request, "1s")
	for _, bad := range []string{"", "1", "s", "-1s", "1.5s", "1s ago", "1 s", "1w", "9999999999d", "99999999999999999999s"} {
		reads(t, timeouts(0, 0, time.Second), request, request, bad, "timeout.tunmesh.io/idle", "1s")
	}
	// What is malformed under our name is not made good by Linkerd's.
	reads(t, nil, request, request, "soon", linkerds, "2h")
	reads(t, nil, linkerds, linkerds, "soon")
}

func FuzzTraffic(f *testing.F) {
	f.Add("timeout.tunmesh.io/request", "1s")
	f.Add("timeout.linkerd.io/idle", "1d")
	f.Fuzz(func(t *testing.T, name, value string) {
		tr, err := traffic(map[string]string{name: value})
		if err != nil && !strings.Contains(err.Error(), name) {
			t.Errorf("the warning does not name %q: %v", name, err)
		}
		if tr != nil && (tr.Timeouts.Request < 0 || tr.Timeouts.Response < 0 || tr.Timeouts.Idle < 0) {
			t.Errorf("%q: %+v", value, tr)
		}
	})
}

func TestRetries(t *testing.T) {
	const (
		http, grpc, limit = "retry.tunmesh.io/http", "retry.tunmesh.io/grpc", "retry.tunmesh.io/limit"
		timeout, budget   = "retry.tunmesh.io/timeout", "retry.tunmesh.io/budget"
	)
	retries := func(change func(r *catalog.Retry)) *catalog.Traffic {
		r := &catalog.Retry{
			Limit: 1, Backoff: catalog.Backoff{Min: 25 * time.Millisecond, Max: 250 * time.Millisecond, Jitter: 1},
			Budget: &catalog.Budget{Percent: 20, PerSecond: 10, Window: 10 * time.Second},
		}
		change(r)
		return &catalog.Traffic{Retry: r}
	}
	on := func(first, last uint32) *catalog.Traffic {
		return retries(func(r *catalog.Retry) { r.Statuses = []catalog.StatusRange{{First: first, Last: last}} })
	}
	reads(t, on(500, 599), "", http, "5xx")
	reads(t, on(502, 504), "", http, "Gateway-Error")
	reads(t, on(503, 503), "", http, "503")
	reads(t, on(400, 599), "", http, "400-599")
	reads(t, on(500, 599), "", "retry.linkerd.io/http", "5xx")
	reads(t, on(503, 503), "", "retry.linkerd.io/http", "5xx", http, "503")
	reads(t, retries(func(r *catalog.Retry) {
		r.Statuses = []catalog.StatusRange{{First: 429, Last: 429}, {First: 500, Last: 599}}
		r.Codes = []uint32{1, 4, 8, 13, 14}
		r.Limit, r.Timeout, r.Budget.Percent = 3, 400*time.Millisecond, 50
	}), "", http, "429, 5xx", grpc, "unavailable,internal, cancelled,deadline-exceeded,resource-exhausted,internal", limit, "3", timeout, "400ms", budget, "50%")
	reads(t, retries(func(r *catalog.Retry) { r.Limit, r.Budget = 100, nil }), "", limit, "100", budget, "none")
	reads(t, retries(func(r *catalog.Retry) { r.Timeout = time.Second }), "", timeout, "1s")
	reads(t, nil, "", budget, "50%") // bounds retries, and asks for none

	for _, bad := range []string{"", "6xx", "5xx,", "99", "600", "504-500", "500-", "-500", "teapot"} {
		reads(t, nil, http, http, bad)
	}
	reads(t, nil, grpc, grpc, "unavailable,not-found")
	for _, bad := range []string{"", "0", "-1", "101", "many"} {
		reads(t, on(500, 599), limit, http, "5xx", limit, bad)
		reads(t, nil, limit, limit, bad)
	}
	reads(t, on(500, 599), timeout, http, "5xx", timeout, "x")
	for _, bad := range []string{"", "20", "-1%", "1001%", "all"} {
		reads(t, on(500, 599), budget, http, "5xx", budget, bad)
	}
}

func TestAccrual(t *testing.T) {
	const mode, honor = "balancer.tunmesh.io/failure-accrual", annotation.AccrualRetryAfter
	breaker := func(change func(a *catalog.Accrual)) *catalog.Traffic {
		a := &catalog.Accrual{Consecutive: 7, Backoff: catalog.Backoff{Min: time.Second, Max: time.Minute, Jitter: 0.5}}
		change(a)
		return &catalog.Traffic{Accrual: a}
	}
	plain := breaker(func(*catalog.Accrual) {})
	unified := func(threshold float64, window time.Duration, n uint32) *catalog.Traffic {
		return breaker(func(a *catalog.Accrual) {
			a.Rate = &catalog.Rate{Threshold: threshold, Window: window, MinRequests: n}
		})
	}
	reads(t, plain, "", mode, "consecutive")
	reads(t, plain, "", "balancer.linkerd.io/failure-accrual", "consecutive", annotation.AccrualThreshold, "0.5")
	reads(t, nil, "", annotation.AccrualMaxFailures, "3") // nothing turns it on
	reads(t, breaker(func(a *catalog.Accrual) {
		a.Consecutive, a.Backoff, a.RetryAfter = 3, catalog.Backoff{Min: 2 * time.Second, Max: time.Hour, Jitter: 0}, true
	}), "", mode, "consecutive", annotation.AccrualMaxFailures, "3", annotation.AccrualMinPenalty, "2s", annotation.AccrualMaxPenalty, "1h", annotation.AccrualJitterRatio, "0.0", honor, "true")
	reads(t, unified(0.8, 10*time.Second, 5), "", mode, "unified")
	reads(t, unified(0.9, 30*time.Second, 100), "", "balancer.linkerd.io/failure-accrual", "unified",
		"balancer.alpha.linkerd.io/failure-accrual-success-rate-threshold", "0.9",
		"balancer.alpha.linkerd.io/failure-accrual-success-rate-window", "30s",
		"balancer.alpha.linkerd.io/failure-accrual-success-rate-min-requests", "100")
	reads(t, plain, "", mode, "unified", annotation.AccrualThreshold, "0")

	reads(t, nil, mode, mode, "sometimes")
	for name, values := range map[string][]string{
		annotation.AccrualMaxFailures: {"-1", "x", "1.5", "4294967296"}, annotation.AccrualMinPenalty: {"0", "x", "2m"}, annotation.AccrualMaxPenalty: {"0", "500ms", "x"},
		annotation.AccrualJitterRatio: {"-1", "101", "NaN", "x"}, honor: {"maybe", ""},
	} {
		for _, v := range values {
			reads(t, plain, name, mode, "consecutive", name, v)
		}
	}
	for name, values := range map[string][]string{
		annotation.AccrualThreshold: {"1.1", "-0.1", "NaN"}, annotation.AccrualWindow: {"0", "9ms", "x"}, annotation.AccrualMinRequests: {"-1", "1000001"},
	} {
		for _, v := range values {
			reads(t, unified(0.8, 10*time.Second, 5), name, mode, "unified", name, v)
		}
	}
}

func TestPenalties(t *testing.T) {
	penalty := func(d, most time.Duration) *catalog.Traffic {
		return &catalog.Traffic{Penalty: &catalog.Penalty{Time: d, MaxRetryAfter: most}}
	}
	reads(t, penalty(5*time.Second, 5*time.Minute), "", annotation.PenalizeFailures, "true")
	reads(t, penalty(time.Second, time.Minute), "", "balancer.alpha.linkerd.io/penalize-failures", "True",
		"balancer.alpha.linkerd.io/load-biaser-penalty", "1s", annotation.BiaserMaxRetryAfter, "1m")
	reads(t, nil, "", annotation.PenalizeFailures, "false", annotation.BiaserPenalty, "1s")
	reads(t, nil, "", annotation.BiaserPenalty, "1s")
	reads(t, nil, annotation.PenalizeFailures, annotation.PenalizeFailures, "yes")
	reads(t, penalty(5*time.Second, 5*time.Minute), annotation.BiaserPenalty, annotation.PenalizeFailures, "1", annotation.BiaserPenalty, "slow")
}
