package control

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	queryapi "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/metrics"
	"github.com/tunmesh/tunmesh/control/query"
)

// TestCronJobs: a CronJob is the sum of the pods of its Jobs, which stay Jobs, and is
// asked about as other workloads are.
func TestCronJobs(t *testing.T) {
	c, err := catalog.New(catalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	window, err := metrics.NewWindow(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	// Two runs of one, one of another, a Job of nobody's; each pod has answered ten
	// requests more than the one before it, and asked the last.
	for i, p := range []struct{ name, job, cron string }{{"a", "backup-1", "backup"}, {"b", "backup-2", "backup"}, {"c", "report-1", "report"}, {"d", "import", ""}} {
		pod := &catalog.Pod{
			Key: catalog.Key{Namespace: "shop", Name: p.name}, IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, byte(i + 1)})}, Phase: "Running", Ready: true, Meshed: p.name != "b",
			Owner: catalog.Ref{Kind: catalog.KindJob, Key: catalog.Key{Namespace: "shop", Name: p.job}},
		}
		c.Apply(catalog.Put(pod))
		if p.cron != "" {
			c.Apply(catalog.Put(&catalog.Job{Key: pod.Owner.Key, CronJob: p.cron}))
		}
		for s := range 2 {
			n := float64(s * 10 * (i + 1))
			window.Insert(p.name, c.PodLabels(pod), time.Now().Add(time.Duration(s-2)*time.Second), time.Time{}, []metrics.Scraped{
				{Series: []byte(`response_total{direction="inbound",classification="success",tls="true"}`), Value: n},
				{Series: []byte(`response_total{direction="outbound",classification="success",tls="true",dst_namespace="shop",dst_job="backup-2",dst_cronjob="backup",dst_pod="b"}`), Value: n},
			})
		}
	}
	c.Sync()
	q, err := query.New(query.Config{Catalog: c, Metrics: window})
	if err != nil {
		t.Fatal(err)
	}
	of := func(kind, name string) *queryapi.Selector {
		return &queryapi.Selector{Kind: kind, Name: name, Namespace: "shop"}
	}
	for _, tc := range []struct {
		req  *queryapi.StatRequest
		want string
	}{
		{&queryapi.StatRequest{Resource: of("cj", "")}, "cronjob backup 1/2 30, cronjob report 1/1 30"},
		{&queryapi.StatRequest{Resource: of("cronjobs", "report")}, "cronjob report 1/1 30"},
		{&queryapi.StatRequest{Resource: of("job", "")}, "job backup-1 1/1 10, job backup-2 0/1 20, job import 1/1 40, job report-1 1/1 30"},
		{&queryapi.StatRequest{Resource: of("cronjob", ""), From: of("job", "import")}, "cronjob backup 1/2 40, cronjob report 1/1 0"},
		{&queryapi.StatRequest{Resource: of("job", "import"), To: of("cj", "backup")}, "job import 1/1 40"},
		{&queryapi.StatRequest{Resource: of("po", ""), From: of("cj", "backup")}, "pod a 1/1 0, pod b 0/1 30, pod c 1/1 0, pod d 1/1 0"},
		{&queryapi.StatRequest{Resource: &queryapi.Selector{Kind: "cj", Namespace: "other"}}, ""},
	} {
		resp, err := q.Stat(t.Context(), tc.req)
		if err != nil {
			t.Errorf("%v: %v", tc.req, err)
		}
		var rows []string
		for _, r := range resp.GetRows() {
			rows = append(rows, fmt.Sprintf("%s %s %d/%d %d", r.GetKind(), r.GetName(), r.GetMeshedPods(), r.GetRunningPods(), r.GetSuccessCount()))
		}
		if got := strings.Join(rows, ", "); got != tc.want {
			t.Errorf("%v:\n%s\nwant\n%s", tc.req, got, tc.want)
		}
	}
	if _, err := q.Stat(t.Context(), &queryapi.StatRequest{Resource: of("cj", "import")}); status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), `there is no cronjob "import" in namespace shop`) {
		t.Errorf("a Job as a CronJob: %v", err)
	}
	edges, err := q.Edges(t.Context(), &queryapi.EdgesRequest{Resource: of("cj", "")})
	if err != nil {
		t.Fatal(err)
	}
	var ends []string
	for _, e := range edges.GetEdges() {
		ends = append(ends, fmt.Sprintf("%s/%s %s/%s", e.GetSrc().GetKind(), e.GetSrc().GetName(), e.GetDst().GetKind(), e.GetDst().GetName()))
	}
	if got, want := strings.Join(ends, ", "), "cronjob/backup cronjob/backup, job/import cronjob/backup, cronjob/report cronjob/backup"; got != want {
		t.Errorf("edges: %s, want %s", got, want)
	}
	taps, err := q.TapsOf(&queryapi.TapsRequest{Resource: of("cj", "backup")}, func(catalog.Key) bool { return true })
	if err != nil || len(taps.GetRows()) != 1 || taps.GetRows()[0].GetPod() != "a" {
		t.Errorf("who can be tapped: %v, %v", taps, err)
	}
}
