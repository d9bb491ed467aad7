package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// patience is how long a request may take.
const patience = 30 * time.Second

// failure is a request that was not answered well.
type failure struct {
	ID     string `json:"id"`
	Kind   string `json:"kind"`
	Start  int64  `json:"start"` // Unix ns
	End    int64  `json:"end"`
	What   string `json:"what"`
	Pod    string `json:"pod,omitempty"`    // whose answer it is, if a server made it
	Meant  bool   `json:"meant,omitempty"`  // the server was told to fail
	Begun  bool   `json:"begun,omitempty"`  // a good response had begun
	Mixed  bool   `json:"mixed,omitempty"`  // another request's answer, or a damaged one
	Sender string `json:"sender,omitempty"` // x-tunmesh-proxy-error
}

// tally is what became of the requests to a Service.
type tally struct {
	Asked    map[string]int `json:"asked"` // by kind
	Sent     map[string]int `json:"sent"`  // how often: clients send again what was refused, or broke before an answer
	Good     map[string]int `json:"good"`
	Failures []failure      `json:"failures"`
	P50Ms    float64        `json:"p50_ms"`
	P99Ms    float64        `json:"p99_ms"`
	MaxMs    float64        `json:"max_ms"`
	// MostOpen is how many requests were under way at once.
	MostOpen int `json:"most_open"`
}

// askCommand asks at a constant rate, whether answers come or not.
func askCommand() *cobra.Command {
	var (
		rate     int
		duration time.Duration
		prefix   string
		kinds    []string
	)
	c := &cobra.Command{
		Use: "ask HOST", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := newAsker(args[0], prefix)
			if err != nil {
				return err
			}
			defer a.close()
			return answer(a.run(cmd.Context(), rate, duration, kinds))
		},
	}
	c.Flags().IntVar(&rate, "rate", 100, "requests per second")
	c.Flags().DurationVar(&duration, "duration", 5*time.Second, "how long")
	c.Flags().StringVar(&prefix, "prefix", "x", "of the requests' numbers")
	c.Flags().StringSliceVar(&kinds, "kinds", []string{"h1-get", "h2-get", "grpc"}, "protocol and method of the requests, in turn")
	return c
}

type asker struct {
	host, prefix string
	h1, h2       *http.Client
	rpc          []*grpc.ClientConn

	mu   sync.Mutex
	open int
	t    tally
	took []time.Duration
}

// rpcConns is how many connections carry the calls.
const rpcConns = 4

func newAsker(host, prefix string) (*asker, error) {
	a := &asker{host: host, prefix: prefix, t: tally{Asked: map[string]int{}, Sent: map[string]int{}, Good: map[string]int{}}}
	client := func(h2 bool) *http.Client {
		p := new(http.Protocols)
		p.SetHTTP1(!h2)
		p.SetUnencryptedHTTP2(h2)
		return &http.Client{Timeout: patience, Transport: &http.Transport{Protocols: p, MaxIdleConnsPerHost: 64, DisableCompression: true}}
	}
	a.h1, a.h2 = client(false), client(true)
	for range rpcConns {
		c, err := grpc.NewClient("passthrough:///"+host+":8081", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(), grpc.WithStatsHandler(&sendings{a}))
		if err != nil {
			return nil, err
		}
		a.rpc = append(a.rpc, c)
	}
	return a, nil
}

func (a *asker) close() {
	for _, c := range a.rpc {
		_ = c.Close()
	}
}

func (a *asker) run(ctx context.Context, rate int, d time.Duration, kinds []string) tally {
	var wg sync.WaitGroup
	every := time.Second / time.Duration(rate)
	start := time.Now()
	for n := 0; ; n++ {
		due := start.Add(time.Duration(n) * every)
		if due.Sub(start) >= d || ctx.Err() != nil {
			break
		}
		time.Sleep(time.Until(due))
		kind := kinds[n%len(kinds)]
		a.mu.Lock()
		a.t.Asked[kind]++
		a.open++
		a.t.MostOpen = max(a.t.MostOpen, a.open)
		a.mu.Unlock()
		wg.Go(func() { a.one(kind, n) })
	}
	wg.Wait()
	slices.Sort(a.took)
	if n := len(a.took); n > 0 {
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		a.t.P50Ms, a.t.P99Ms, a.t.MaxMs = ms(a.took[n/2]), ms(a.took[n*99/100]), ms(a.took[n-1])
	}
	return a.t
}

// one makes a request and notes its end.
func (a *asker) one(kind string, n int) {
	f := failure{ID: fmt.Sprintf("%s%d", a.prefix, n), Kind: kind}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	start := time.Now()
	if kind == "grpc" {
		a.call(ctx, a.rpc[n%len(a.rpc)], &f)
	} else {
		a.request(ctx, kind, n, &f)
	}
	end := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open--
	a.took = append(a.took, end.Sub(start))
	if f.What == "" {
		a.t.Good[kind]++
		return
	}
	f.Start, f.End = start.UnixNano(), end.UnixNano()
	a.t.Failures = append(a.t.Failures, f)
}

func (a *asker) sent(kind string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.t.Sent[kind]++
}

// sendings counts how often calls are sent; it is a stats.Handler.
type sendings struct{ *asker }

func (*sendings) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*sendings) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*sendings) HandleConn(context.Context, stats.ConnStats)                       {}

// HandleRPC implements stats.Handler.
func (s *sendings) HandleRPC(_ context.Context, e stats.RPCStats) {
	if _, ok := e.(*stats.OutHeader); ok {
		s.sent("grpc")
	}
}

func (a *asker) request(ctx context.Context, kind string, n int, f *failure) {
	proto, method, _ := strings.Cut(kind, "-")
	client := a.h1
	if proto == "h2" {
		client = a.h2
	}
	sent := []byte(nil)
	if method != "get" {
		sent = body(f.ID, 1+n*31%3000)
	}
	r, err := http.NewRequestWithContext(ctx, strings.ToUpper(method), "http://"+a.host+"/", bytes.NewReader(sent))
	if err != nil {
		f.What = err.Error()
		return
	}
	r = r.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { a.sent(kind) }}))
	r.Header.Set(idHeader, f.ID)
	resp, err := client.Do(r)
	if err != nil {
		f.What = cause(err)
		return
	}
	defer resp.Body.Close()
	f.Pod, f.Sender = resp.Header.Get(podHeader), resp.Header.Get("x-tunmesh-proxy-error")
	f.Meant = resp.Header.Get(actHeader) == actError
	got, err := io.ReadAll(resp.Body)
	switch {
	case resp.StatusCode != http.StatusOK:
		f.What = fmt.Sprintf("status %d: %s", resp.StatusCode, bytes.TrimSpace(got))
	case err != nil:
		f.What, f.Begun = "in the body: "+cause(err), true
	case resp.Header.Get(idHeader) != f.ID, len(sent) > 0 && !bytes.Equal(got, sent), len(sent) == 0 && !bytes.Equal(got, body(f.ID, len(got))):
		f.What, f.Mixed = fmt.Sprintf("answered as %s with %d bytes", resp.Header.Get(idHeader), len(got)), true
	}
}

func (a *asker) call(ctx context.Context, c *grpc.ClientConn, f *failure) {
	var header, trailer metadata.MD
	_, err := healthpb.NewHealthClient(c).Check(ctx, &healthpb.HealthCheckRequest{Service: f.ID}, grpc.Header(&header), grpc.Trailer(&trailer), grpc.WaitForReady(true))
	first := func(md metadata.MD, k string) string {
		if v := md.Get(k); len(v) > 0 {
			return v[0]
		}
		return ""
	}
	f.Pod = first(header, podHeader)
	if f.Pod == "" {
		f.Pod = first(trailer, podHeader)
	}
	f.Sender, f.Meant = first(trailer, "x-tunmesh-proxy-error"), first(trailer, actHeader) == actError
	switch {
	case err != nil:
		f.What = fmt.Sprintf("%s: %s", status.Code(err), status.Convert(err).Message())
		f.Begun = first(header, podHeader) != "" && status.Code(err) != codes.OK && !f.Meant
	case first(header, idHeader) != f.ID:
		f.What, f.Mixed = "answered as "+first(header, idHeader), true
	}
}

// cause is an error without the URL, which says nothing new.
func cause(err error) string {
	for u := errors.Unwrap(err); u != nil; u = errors.Unwrap(err) {
		err = u
	}
	return err.Error()
}
