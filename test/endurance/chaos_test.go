package endurance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

// rates are how many requests a second each of the two Services gets: 500 in all.
// The generator, the sidecars and the apps share a machine, on which an outage
// costs more than the time that it lasts.
var rates = map[string]int{"armed": 300, "plain": 200} //nolint:gochecknoglobals // a table

// plainKinds are the requests to the Service without retries, in turn.
const plainKinds = "h1-get,h2-put,grpc,h1-post,h2-get,h1-put,grpc,h2-post"

// services are two over the same pods: to one requests are sent again, to the
// other never.
const services = `apiVersion: v1
kind: Service
metadata:
  name: armed
  namespace: default
  annotations:
    retry.tunmesh.io/http: 5xx
    retry.tunmesh.io/grpc: cancelled,deadline-exceeded,internal,resource-exhausted,unavailable
    retry.tunmesh.io/limit: "10"
    retry.tunmesh.io/timeout: 1s
    retry.tunmesh.io/budget: 100%
spec:
  selector: {app: victim}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc, port: 8081}]
---
apiVersion: v1
kind: Service
metadata:
  name: plain
  namespace: default
spec:
  selector: {app: victim}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: grpc, port: 8081}]
`

// tally is what endure ask prints.
type tally struct {
	Asked    map[string]int `json:"asked"`
	Sent     map[string]int `json:"sent"`
	Good     map[string]int `json:"good"`
	Failures []failure      `json:"failures"`
	P50Ms    float64        `json:"p50_ms"`
	P99Ms    float64        `json:"p99_ms"`
	MaxMs    float64        `json:"max_ms"`
	MostOpen int            `json:"most_open"`
}

func total(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

func (r tally) String() string {
	var kinds []string
	for _, k := range slices.Sorted(maps.Keys(r.Asked)) {
		kinds = append(kinds, fmt.Sprintf("%s %d/%d", k, r.Good[k], r.Asked[k]))
	}
	return fmt.Sprintf("%d requests, %d failed (good/all: %s); p50 %.1f ms, p99 %.1f ms, longest %.0f ms; at most %d at once",
		total(r.Asked), len(r.Failures), strings.Join(kinds, ", "), r.P50Ms, r.P99Ms, r.MaxMs, r.MostOpen)
}

// asking is an endure ask that runs.
type asking struct {
	cmd *exec.Cmd
	out bytes.Buffer
}

func ask(ctx context.Context, m *meshtest.Mesh, service, kinds string, d time.Duration) (*asking, error) {
	a := &asking{cmd: m.Command(ctx, "local", "exec", "client", "--", "endure", "ask", "--rate", fmt.Sprint(rates[service]), "--duration", d.String(),
		"--prefix", service[:1], "--kinds", kinds, service)}
	a.cmd.WaitDelay = 5 * time.Second
	a.cmd.Stdout = &a.out
	return a, a.cmd.Start()
}

func (a *asking) tally() (r tally, err error) {
	if err := a.cmd.Wait(); err != nil {
		return r, fmt.Errorf("ask: %w: %s", err, &a.out)
	}
	return r, json.Unmarshal(bytes.TrimSpace(a.out.Bytes()), &r)
}

// TestChaos kills, adds, removes, stops, slows and breaks endpoints at random
// while two Services of the same pods are asked 500 times a second. With
// retries no request fails that may be repeated. Without, each that fails was
// under way at an endpoint that was killed, or is the endpoint's own failure;
// what may not be repeated never arrives twice; and the caller's sidecar has
// counted it all.
func TestChaos(t *testing.T) {
	d := length(t, "TUNMESH_CHAOS", 40*time.Second)
	v := newVictims(t, seeded(t, "TUNMESH_CHAOS_SEED"))
	manifests := []string{services, meshtest.Client("client", true, "")}
	for range atFirst {
		manifests = append(manifests, v.next())
	}
	v.m = meshtest.Up(t, bin, "chaos", manifests...)

	var beside sync.WaitGroup
	stop := make(chan struct{})
	j := newJournal(filepath.Join("/run/tunmesh-local", v.m.Name, "logs"), "p")
	books := &bookkeeper{client: onNode(t, v.m), ip: v.m.Pod(t, "client").IP, of: `authority="plain`}
	beside.Go(func() { j.follow(stop) })
	beside.Go(func() { books.follow(stop) })
	over := sync.OnceFunc(func() { close(stop); beside.Wait() })
	defer over()
	defer v.heal()

	tell := pressure(t)
	ctx, cancel := context.WithTimeout(t.Context(), d+2*time.Minute)
	defer cancel()
	armed, err := ask(ctx, v.m, "armed", "h1-get,h2-put,grpc,h1-put,h2-get", d)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := ask(ctx, v.m, "plain", plainKinds, d)
	if err != nil {
		t.Fatal(err)
	}
	// The last strikes end before the requests do.
	for end := time.Now().Add(d - 4*time.Second); time.Now().Before(end); {
		v.strike()
		time.Sleep(300*time.Millisecond + time.Duration(v.rand.Int64N(int64(time.Second))))
	}
	a, err := armed.tally()
	if err != nil {
		t.Fatal(err)
	}
	p, err := plain.tally()
	if err != nil {
		t.Fatal(err)
	}
	tell()
	time.Sleep(time.Second) // the last answers are counted
	over()
	v.heal()
	select {
	case err := <-v.said:
		t.Errorf("what was to be done: %v", err)
	default:
	}
	t.Logf("what was done:%s", v.told())
	t.Logf("with retries: %v", a)
	t.Logf("without: %v", p)
	t.Logf("retries: %d, of which %d got a good response", sum(books.page, "outbound_http_route_retry_requests_total"), sum(books.page, "outbound_http_route_retry_successes_total"))

	known := &evidence{arrivals: j.arrivals, events: append(v.events, j.cuts...), accounts: books.accounts}
	defer func() {
		if t.Failed() {
			t.Logf("in order:\n  %s", strings.Join(v.diary, "\n  "))
		}
	}()
	judgeArmed(t, known, a)
	judgePlain(t, known, p)
	judgeBooks(t, books, known, p)
	for what, r := range map[string]tally{"armed": a, "plain": p} {
		if want := int(d/time.Second) * rates[what]; total(r.Asked) < want*95/100 {
			t.Errorf("%s: only %d requests were made in %v, want %d", what, total(r.Asked), d, want)
		}
	}
}

// judgeArmed: nothing failed. A response of which a part has reached the client
// can't be made good by anybody; such a one was cut off by what happened to its
// server, and they are few.
func judgeArmed(t *testing.T, known *evidence, r tally) {
	t.Helper()
	cut, failed := 0, 0
	for _, f := range r.Failures {
		if f.Begun && known.cutOff(f) {
			cut++
			t.Logf("with retries, cut off in the middle of the response: %v", f)
			continue
		}
		if failed++; failed <= 20 {
			t.Errorf("with retries: %v (a response had begun: %v)", f, f.Begun)
		}
	}
	if most := 1 + total(r.Asked)/5000; cut > most {
		t.Errorf("%d responses were cut off in the middle, want at most %d", cut, most)
	}
	t.Logf("with retries: %d failed, %d responses cut off in the middle", failed, cut)
}

// judgePlain: what failed has a reason, and what may not be repeated was not.
func judgePlain(t *testing.T, known *evidence, r tally) {
	t.Helper()
	causes, unexplained := map[string]int{}, 0
	for _, f := range r.Failures {
		why := known.judge(f)
		causes[why]++
		if why != unresolved {
			continue
		}
		if unexplained++; unexplained <= 20 {
			t.Errorf("without retries, and nobody knows why: %v; arrived: %v; meant: %v, begun: %v, mixed: %v", f, known.arrivals[f.ID], f.Meant, f.Begun, f.Mixed)
		}
	}
	var b strings.Builder
	for _, why := range slices.Sorted(maps.Keys(causes)) {
		fmt.Fprintf(&b, "\n  %5d  %s", causes[why], why)
	}
	t.Logf("failed without retries, by cause:%s", &b)
	repeated := 0
	for id, all := range known.arrivals {
		if len(all) < 2 {
			continue
		}
		repeated++
		if kind := plainKind(id); strings.HasSuffix(kind, "post") || kind == "grpc" {
			t.Errorf("%s %s may arrive once only: %v", kind, id, all)
		}
	}
	t.Logf("%d requests that may be repeated arrived more than once", repeated)
}

// plainKind is the kind of a request to the Service without retries.
func plainKind(id string) string {
	kinds := strings.Split(plainKinds, ",")
	n := 0
	_, _ = fmt.Sscanf(id, "p%d", &n)
	return kinds[n%len(kinds)]
}

// judgeBooks: the caller's sidecar counted every request, and no failure at a
// pod to which nothing was done.
func judgeBooks(t *testing.T, b *bookkeeper, known *evidence, r tally) {
	t.Helper()
	if b.err != nil {
		t.Errorf("the caller's sidecar: %v", b.err)
	}
	// To metrics RESOURCE_EXHAUSTED is no failure: the server is well, and has
	// too much to do.
	good, failed := total(r.Good), 0
	for _, f := range r.Failures {
		if strings.HasPrefix(f.What, "ResourceExhausted") {
			good++
		} else {
			failed++
		}
	}
	// Clients send again by themselves what was refused, or what broke before its
	// answer; the sidecar what no endpoint acted on. Each sending but the last failed.
	again := b.total("request_redelivered_total", "")
	more := total(r.Sent) + again - total(r.Asked)
	if n := b.total("request_total", ""); n != total(r.Sent)+again {
		t.Errorf("the caller's sidecar counted %d requests; %d were asked for, sent %d times, and %d were sent on again", n, total(r.Asked), total(r.Sent), again)
	}
	for what, c := range map[string]struct{ got, want int }{
		"good responses": {b.total("response_total", "success"), good},
		"failed ones":    {b.total("response_total", "failure"), failed + more},
	} {
		if c.got != c.want {
			t.Errorf("the caller's sidecar counted %d %s, and there were %d", c.got, what, c.want)
		}
	}
	t.Logf("the caller's sidecar counted each request: the client sent %d again by itself, the sidecar %d", total(r.Sent)-total(r.Asked), again)
	meant := map[string]int{}
	for _, f := range r.Failures {
		if f.Meant {
			meant[f.Pod]++
		}
	}
	for _, all := range known.arrivals {
		for _, a := range all {
			if a.act == "break" {
				meant[a.pod]++
			}
		}
	}
	struck := map[string]bool{}
	for _, e := range known.events {
		struck[e.pod] = true
	}
	failures := map[string]int{}
	for _, a := range b.accounts {
		failures[a.pod] += a.failures
	}
	for pod, n := range failures {
		if !struck[pod] && n > meant[pod] {
			t.Errorf("%d requests failed at %s, which meant %d and to which nothing was done", n, pod, meant[pod])
		}
	}
}

// bookkeeper follows what a sidecar counts of the requests to a Service.
type bookkeeper struct {
	client *http.Client
	ip     string
	of     string

	page     string
	last     map[string]float64 // by family and labels
	sums     map[string]int
	seen     time.Time
	accounts []account
	err      error
}

func (b *bookkeeper) follow(stop <-chan struct{}) {
	b.last, b.sums = map[string]float64{}, map[string]int{}
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	for last := false; !last; {
		select {
		case <-t.C:
		case <-stop:
			last = true
		}
		asked := time.Now()
		page, err := metrics(b.client, b.ip)
		if err != nil {
			b.err = err
			continue
		}
		b.err = nil
		b.take(page, asked, time.Now())
	}
}

// take adds what a page has more than the last one: that was counted after the
// last one was asked for, and before this one had come. A label set that was not
// used for ten minutes is let go and begins anew.
func (b *bookkeeper) take(page string, asked, now time.Time) {
	failures := map[string]int{}
	for _, family := range []string{"request_total", "request_redelivered_total", "response_total"} {
		each(page, family, func(labels string, v float64) {
			key := family + labels
			more := v - b.last[key]
			if more < 0 {
				more = v
			}
			b.last[key] = v
			b.sums[family+" "+label(labels, "classification")] += int(more)
			if strings.Contains(labels, `classification="failure"`) && more > 0 {
				failures[label(labels, "dst_pod")] += int(more)
			}
		}, `direction="outbound"`, b.of)
	}
	for pod, n := range failures {
		b.accounts = append(b.accounts, account{pod: pod, after: b.seen, till: now, failures: n})
	}
	b.page, b.seen = page, asked
}

func (b *bookkeeper) total(family, classification string) int {
	return b.sums[family+" "+classification]
}
