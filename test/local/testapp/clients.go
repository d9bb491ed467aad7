package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

type spread struct {
	Pods   map[string]int `json:"pods"`
	Peers  map[string]int `json:"peers"`
	Errors map[string]int `json:"errors"`
	P50Us  int64          `json:"p50_us"`
	P99Us  int64          `json:"p99_us"`
	// SlowestUs is the longest time that a call took, failed ones too.
	SlowestUs int64 `json:"slowest_us"`
	// Start is when the first call was made.
	Start time.Time `json:"start"`
	// FirstUs of each pod: when it first answered, since Start.
	FirstUs map[string]int64 `json:"first_us"`
}

// grpcCommand makes unary calls on one connection.
func grpcCommand() *cobra.Command {
	var (
		n, parallel int
		duration    time.Duration
		every       time.Duration
	)
	c := &cobra.Command{
		Use: "grpc HOST:PORT", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := grpc.NewClient("passthrough:///"+args[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				return err
			}
			defer conn.Close()
			client := healthpb.NewHealthClient(conn)
			s := newSpread()
			ctx, cancel := cmd.Context(), func() {}
			if duration > 0 {
				ctx, cancel = context.WithTimeout(ctx, duration)
			}
			defer cancel()
			var left atomic.Int64
			left.Store(int64(n))
			var wg sync.WaitGroup
			for range parallel {
				wg.Go(func() {
					for (n == 0 || left.Add(-1) >= 0) && ctx.Err() == nil {
						var h metadata.MD
						call, done := context.WithTimeout(cmd.Context(), 10*time.Second)
						start := time.Now()
						_, err := client.Check(call, &healthpb.HealthCheckRequest{}, grpc.Header(&h), grpc.WaitForReady(true))
						done()
						s.add(first(h.Get("pod")), host(first(h.Get("peer"))), err, time.Since(start))
						time.Sleep(every)
					}
				})
			}
			wg.Wait()
			return answer(s.result())
		},
	}
	c.Flags().IntVarP(&n, "calls", "n", 0, "number of calls (0 = until --duration)")
	c.Flags().IntVar(&parallel, "parallel", 1, "calls in flight")
	c.Flags().DurationVar(&duration, "duration", 0, "how long")
	c.Flags().DurationVar(&every, "every", 0, "pause after each call")
	return c
}

// loadCommand makes HTTP/1.1 requests at a rate, each kind on its own connection.
func loadCommand() *cobra.Command {
	var (
		rps      int
		duration time.Duration
		fresh    bool
		parallel int
	)
	c := &cobra.Command{
		Use: "load URL", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tr := &http.Transport{DisableKeepAlives: fresh, MaxIdleConnsPerHost: parallel}
			client := &http.Client{Transport: tr, Timeout: 30 * time.Second}
			s := newSpread()
			ctx, cancel := context.WithTimeout(cmd.Context(), duration)
			defer cancel()
			work := make(chan struct{}, 10000)
			var wg sync.WaitGroup
			for range parallel {
				wg.Go(func() {
					for range work {
						start := time.Now()
						pod, peer, err := get(cmd.Context(), client, args[0])
						s.add(pod, peer, err, time.Since(start))
					}
				})
			}
			t := time.NewTicker(time.Second / time.Duration(rps))
			defer t.Stop()
			for ctx.Err() == nil {
				select {
				case <-ctx.Done():
				case <-t.C:
					work <- struct{}{}
				}
			}
			close(work)
			wg.Wait()
			return answer(s.result())
		},
	}
	c.Flags().IntVar(&rps, "rps", 100, "requests per second")
	c.Flags().DurationVar(&duration, "duration", 5*time.Second, "how long")
	c.Flags().BoolVar(&fresh, "fresh", false, "a new connection for each request")
	c.Flags().IntVar(&parallel, "parallel", 8, "workers")
	return c
}

func get(ctx context.Context, c *http.Client, url string) (pod, peer string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", "", err
	}
	resp, err := c.Do(r)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", "", fmt.Errorf("status %d: %s", resp.StatusCode, bytes.TrimSpace(body))
	}
	var v struct{ Pod, Peer string }
	if err := json.Unmarshal(body, &v); err != nil {
		return "", "", err
	}
	return v.Pod, host(v.Peer), nil
}

func httpCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "http URL", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := &http.Client{Timeout: 10 * time.Second}
			resp, err := client.Get(args[0])
			if err != nil {
				return answer(map[string]any{"error": err.Error()})
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			return answer(map[string]any{"status": resp.StatusCode, "body": string(body), "error": errorText(err), "headers": resp.Header})
		},
	}
	return c
}

func newSpread() *recorder {
	now := time.Now()
	return &recorder{start: now, s: spread{Start: now, Pods: map[string]int{}, Peers: map[string]int{}, Errors: map[string]int{}, FirstUs: map[string]int64{}}}
}

type recorder struct {
	mu    sync.Mutex
	start time.Time
	s     spread
	took  []time.Duration
}

func (r *recorder) add(pod, peer string, err error, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.s.SlowestUs = max(r.s.SlowestUs, took.Microseconds())
	if err != nil {
		r.s.Errors[err.Error()]++
		return
	}
	if r.s.Pods[pod] == 0 {
		r.s.FirstUs[pod] = time.Since(r.start).Microseconds()
	}
	r.s.Pods[pod]++
	r.s.Peers[peer]++
	r.took = append(r.took, took)
}

func (r *recorder) result() spread {
	sort.Slice(r.took, func(i, j int) bool { return r.took[i] < r.took[j] })
	if n := len(r.took); n > 0 {
		r.s.P50Us, r.s.P99Us = r.took[n/2].Microseconds(), r.took[n*99/100].Microseconds()
	}
	return r.s
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

func host(hostport string) string {
	h, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return hostport
	}
	return h
}

// dialCommand connects n times, or for a time, and says how each ended and how
// long it took.
func dialCommand() *cobra.Command {
	var (
		n, parallel              int
		timeout, duration, every time.Duration
	)
	c := &cobra.Command{
		Use: "dial HOST:PORT", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			// Once: a lookup that waits would keep the connections from waiting.
			r := dialed{results: map[string]int{}}
			to, err := net.ResolveTCPAddr("tcp", args[0])
			if err != nil {
				r.results[err.Error()]++
				return answer(r.result())
			}
			var left atomic.Int64
			left.Store(int64(n))
			end := time.Now().Add(duration)
			var wg sync.WaitGroup
			for range parallel {
				wg.Go(func() {
					for (duration == 0 && left.Add(-1) >= 0) || (duration > 0 && time.Now().Before(end)) {
						r.dial(to.String(), timeout)
						time.Sleep(every)
					}
				})
			}
			wg.Wait()
			return answer(r.result())
		},
	}
	c.Flags().IntVarP(&n, "count", "n", 1, "connections")
	c.Flags().IntVar(&parallel, "parallel", 1, "at a time")
	c.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "for each")
	c.Flags().DurationVar(&duration, "duration", 0, "how long, whatever the count")
	c.Flags().DurationVar(&every, "every", 0, "pause after each connection")
	return c
}

// dialed are the connections of a dialCommand.
type dialed struct {
	mu      sync.Mutex
	results map[string]int
	took    []int64 // µs
}

func (d *dialed) dial(to string, timeout time.Duration) {
	start := time.Now()
	conn, err := net.DialTimeout("tcp", to, timeout)
	if err == nil {
		defer conn.Close()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.took = append(d.took, time.Since(start).Microseconds())
	switch {
	case err == nil:
		d.results["connected"]++
	case errors.Is(err, syscall.ECONNREFUSED):
		d.results["refused"]++
	default:
		d.results[err.Error()]++
	}
}

func (d *dialed) result() map[string]any {
	slices.Sort(d.took)
	median, slowest := int64(0), int64(0)
	if n := len(d.took); n > 0 {
		median, slowest = d.took[n/2], d.took[n-1]
	}
	return map[string]any{"results": d.results, "median_us": median, "slowest_us": slowest}
}

// bannerCommand waits for the server to speak first.
func bannerCommand() *cobra.Command {
	var n int
	c := &cobra.Command{
		Use: "banner HOST:PORT", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var times []int64
			line := ""
			for range n {
				start := time.Now()
				conn, err := net.DialTimeout("tcp", args[0], 10*time.Second)
				if err != nil {
					return answer(map[string]any{"error": err.Error()})
				}
				_ = conn.SetDeadline(time.Now().Add(15 * time.Second))
				r := bufio.NewReader(conn)
				if line, err = r.ReadString('\n'); err != nil {
					return answer(map[string]any{"error": err.Error()})
				}
				times = append(times, time.Since(start).Microseconds())
				fmt.Fprintf(conn, "HELO me\r\n")
				reply, err := r.ReadString('\n')
				if err != nil || !strings.Contains(reply, "HELO me") {
					return answer(map[string]any{"error": fmt.Sprintf("reply %q: %v", reply, err)})
				}
				conn.Close()
			}
			sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
			return answer(map[string]any{"banner": strings.TrimSpace(line), "median_us": times[len(times)/2], "slowest_us": times[len(times)-1], "error": ""})
		},
	}
	c.Flags().IntVarP(&n, "count", "n", 5, "how often")
	return c
}

// uploadCommand sends n bytes, half-closes, and reads the answer; or receives.
func uploadCommand() *cobra.Command {
	var (
		n    int64
		recv bool
	)
	c := &cobra.Command{
		Use: "upload HOST:PORT", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			conn, err := net.DialTimeout("tcp", args[0], 10*time.Second)
			if err != nil {
				return answer(map[string]any{"error": err.Error()})
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(5 * time.Minute))
			h := sha256.New()
			start := time.Now()
			if recv {
				fmt.Fprintln(conn, n)
				want := sha256.New()
				_, _ = io.CopyN(want, pattern(), n)
				got, err := io.Copy(h, conn)
				return answer(map[string]any{"bytes": got, "same": bytes.Equal(want.Sum(nil), h.Sum(nil)), "error": errorText(err), "seconds": time.Since(start).Seconds()})
			}
			if _, err := io.CopyN(io.MultiWriter(conn, h), pattern(), n); err != nil {
				return answer(map[string]any{"error": err.Error()})
			}
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				return answer(map[string]any{"error": err.Error()})
			}
			reply, err := io.ReadAll(conn)
			fields := strings.Fields(string(reply))
			same := len(fields) >= 3 && fields[0] == fmt.Sprint(n) && fields[1] == fmt.Sprintf("%x", h.Sum(nil))
			peer := ""
			if len(fields) >= 3 {
				peer = host(fields[2])
			}
			return answer(map[string]any{"same": same, "peer": peer, "error": errorText(err), "seconds": time.Since(start).Seconds()})
		},
	}
	c.Flags().Int64Var(&n, "bytes", 1<<20, "how many")
	c.Flags().BoolVar(&recv, "receive", false, "receive instead of sending")
	return c
}

// udpCommand sends a datagram and waits for it to come back, and so again if it
// is lost: the first one too large for the path is.
func udpCommand() *cobra.Command {
	var size, tries int
	c := &cobra.Command{
		Use: "udp HOST:PORT", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			conn, err := net.Dial("udp", args[0])
			if err != nil {
				return answer(map[string]any{"error": err.Error()})
			}
			defer conn.Close()
			payload := bytes.Repeat([]byte("x"), max(size, 4))
			copy(payload, "ping")
			b := make([]byte, 65536)
			n := 0
			for range tries {
				_ = conn.SetDeadline(time.Now().Add(5 * time.Second / time.Duration(tries)))
				if _, err = conn.Write(payload); err == nil {
					n, err = conn.Read(b)
				}
				if err == nil {
					break
				}
			}
			from, body, _ := strings.Cut(string(b[:n]), " ")
			return answer(map[string]any{"peer": host(from), "same": body == string(payload), "error": errorText(err)})
		},
	}
	c.Flags().IntVar(&size, "size", 4, "bytes of the datagram")
	c.Flags().IntVar(&tries, "tries", 1, "how often it is sent, if lost, within 5 s")
	return c
}

// idleCommand opens n connections, uses each once, and holds them until stdin
// ends or the time is over.
func idleCommand() *cobra.Command {
	var (
		n      int
		opaque bool
		hold   time.Duration
	)
	c := &cobra.Command{
		Use: "idle HOST:PORT", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			failed := 0
			for range n {
				conn, err := net.DialTimeout("tcp", args[0], 10*time.Second)
				if err != nil {
					failed++
					continue
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				if opaque {
					fmt.Fprint(conn, "\x00ping")
				} else {
					fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", args[0])
				}
				if _, err := conn.Read(make([]byte, 4096)); err != nil {
					failed++
				}
			}
			if err := answer(map[string]any{"open": n - failed, "failed": failed}); err != nil {
				return err
			}
			_ = os.Stdout.Sync()
			select {
			case <-cmd.Context().Done():
			case <-time.After(hold):
			}
			return nil
		},
	}
	c.Flags().IntVarP(&n, "count", "n", 1000, "connections")
	c.Flags().BoolVar(&opaque, "opaque", false, "bytes instead of HTTP")
	c.Flags().DurationVar(&hold, "hold", time.Minute, "how long to hold them")
	return c
}

// trickleCommand makes one HTTP/1.1 request, a byte at a time.
func trickleCommand() *cobra.Command {
	var every time.Duration
	c := &cobra.Command{
		Use: "trickle HOST:PORT", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			conn, err := net.DialTimeout("tcp", args[0], 10*time.Second)
			if err != nil {
				return answer(map[string]any{"error": err.Error()})
			}
			defer conn.Close()
			for _, b := range []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n") {
				if _, err := conn.Write([]byte{b}); err != nil {
					return answer(map[string]any{"error": err.Error()})
				}
				time.Sleep(every)
			}
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				return answer(map[string]any{"error": err.Error()})
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			return answer(map[string]any{"status": resp.StatusCode, "body": string(body), "error": errorText(err)})
		},
	}
	c.Flags().DurationVar(&every, "every", time.Second, "pause after each byte")
	return c
}

// tlsCommand makes a TLS connection of the app's own.
func tlsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "tls HOST:PORT", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			d := &net.Dialer{Timeout: 10 * time.Second}
			conn, err := tls.DialWithDialer(d, "tcp", args[0], &tls.Config{InsecureSkipVerify: true, ServerName: "testapp"}) //nolint:gosec // the test app's own certificate
			if err != nil {
				return answer(map[string]any{"error": err.Error()})
			}
			defer conn.Close()
			return answer(map[string]any{"subject": conn.ConnectionState().PeerCertificates[0].DNSNames, "error": ""})
		},
	}
}
