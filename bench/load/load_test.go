package load_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tunmesh/tunmesh/bench/load"
	"github.com/tunmesh/tunmesh/internal/nettest"
)

// serving says that this test binary is the server: Serve never returns, so it
// gets a process of its own.
const serving = "LOAD_TEST_SERVES"

func TestMain(m *testing.M) {
	if addrs := os.Getenv(serving); addrs != "" {
		var ports []load.Port
		for i, k := range []load.Kind{load.Echo, load.Sink, load.ServeH1, load.ServeH2} {
			ports = append(ports, load.Port{Kind: k, Addr: netip.MustParseAddrPort(fmt.Sprintf("%s:%d", addrs, 17401+i))})
		}
		if err := load.Serve(ports); err != nil {
			panic(err)
		}
	}
	os.Exit(nettest.Contain(m.Run)) // the server ends with the tests
}

func server(t *testing.T) (echo, sink netip.AddrPort) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serving+"=127.0.0.1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	echo, sink = netip.MustParseAddrPort("127.0.0.1:17401"), netip.MustParseAddrPort("127.0.0.1:17402")
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: 17402, Addr: [4]byte{127, 0, 0, 1}})
		_ = unix.Close(fd)
		if err == nil {
			return echo, sink
		}
	}
	t.Fatal("the server does not come up")
	return echo, sink
}

func TestClients(t *testing.T) {
	echo, sink := server(t)
	http1, http2 := at(17403), at(17404)
	const d = 50 * time.Millisecond
	for _, conns := range []int{1, 8} {
		r, err := load.PingPong(echo, conns, 128, d)
		if err != nil || r.Count == 0 || r.All <= r.Count || r.P50 <= 0 || r.P50 > r.P99 || r.P99 > r.Max || r.Connections != conns {
			t.Errorf("ping-pong: %+v, %v", r, err)
		}
		if r, err = load.Bulk(sink, conns, d); err != nil || r.Gbit <= 0 {
			t.Errorf("bulk: %+v, %v", r, err)
		}
	}
	if r, err := load.Connect(echo, 128, d); err != nil || r.Count == 0 || r.Rate <= 0 {
		t.Errorf("connect: %+v, %v", r, err)
	}
	o := load.Options{Connections: 2, Streams: 4, Duration: d, Authority: "a", Path: "/"}
	for name, f := range map[string]func() (load.Result, error){
		"http1":  func() (load.Result, error) { return load.HTTP1(http1, o) },
		"http2":  func() (load.Result, error) { return load.HTTP2(http2, o) },
		"grpc":   func() (load.Result, error) { return load.GRPC(http2, o, 128) },
		"stream": func() (load.Result, error) { return load.Stream(http2, o, 128) },
	} {
		if r, err := f(); err != nil || r.Count == 0 || r.Failed > 0 || r.P50 > r.P999 || r.P999 > r.Max {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	large := o
	large.Path = "/1000000"
	if r, err := load.HTTP1(http1, large); err != nil || r.Count == 0 || r.Failed > 0 {
		t.Errorf("a megabyte: %+v, %v", r, err)
	}
	if r, err := load.Hold(echo, 10, 8, time.Millisecond); err != nil || r.All != 10 {
		t.Errorf("hold: %+v, %v", r, err)
	}
	if r, err := load.Storm(echo, 20, 8, time.Millisecond); err != nil || r.All != 20 || r.Count != 20 || r.P50 <= 0 {
		t.Errorf("storm: %+v, %v", r, err)
	}
	if _, err := load.Storm(netip.MustParseAddrPort("127.0.0.1:1"), 2, 8, d); err == nil {
		t.Error("a storm on nobody is no error")
	}
	if _, err := load.PingPong(netip.MustParseAddrPort("127.0.0.1:1"), 1, 1, d); err == nil {
		t.Error("nobody is there and no error says so")
	}
}

func at(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
}

// TestFinish: who waits for the last answers was answered as often as the
// server was asked.
func TestFinish(t *testing.T) {
	var asked atomic.Uint64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(20 * time.Millisecond)
		asked.Add(1)
	}))
	defer s.Close()
	to := netip.MustParseAddrPort(s.Listener.Addr().String())
	for _, rate := range []float64{0, 500} {
		asked.Store(0)
		r, err := load.HTTP1(to, load.Options{Connections: 16, Duration: 100 * time.Millisecond, Rate: rate, Finish: true, Authority: "a", Path: "/"})
		if err != nil || r.All == 0 || r.Failed != 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		s.CloseClientConnections()
		if n := asked.Load(); n != r.All {
			t.Errorf("rate %v: %d answers, and the server was asked %d times", rate, r.All, n)
		}
	}
}

// TestOpenLoop: the rate is kept, and a server that stops for a while is held
// against all requests that should have left meanwhile, not against one.
func TestOpenLoop(t *testing.T) {
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if n.Add(1) == 500 {
			time.Sleep(400 * time.Millisecond)
		}
	}))
	defer s.Close()
	r, err := load.HTTP1(netip.MustParseAddrPort(s.Listener.Addr().String()), load.Options{Connections: 1, Duration: time.Second, Rate: 1000, Authority: "a", Path: "/"})
	if err != nil {
		t.Fatal(err)
	}
	if r.Rate > 1050 {
		t.Errorf("%.0f requests a second were asked for, not more than 1000", r.Rate)
	}
	// 300 requests should have left in the 300 ms before the end of the pause.
	q := load.Quantiles(r.Histogram, []float64{85})
	if len(q) != 1 || q[0] < 50_000 {
		t.Errorf("the pause is hidden: p85 is %v µs", q)
	}
}

// TestNames: connections ask for as many names as they should, in turn.
func TestNames(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]bool{}
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen[r.Host] = true
	}))
	defer s.Close()
	o := load.Options{Connections: 5, Duration: 100 * time.Millisecond, Rate: 1000, Authority: "a", Names: 3, Path: "/", Finish: true}
	if _, err := load.HTTP1(netip.MustParseAddrPort(s.Listener.Addr().String()), o); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != 3 || !seen["0.a"] || !seen["2.a"] {
		t.Errorf("asked for %v", seen)
	}
}

// TestRealServers: the clients against servers that everybody uses, with chunks,
// errors and trailers.
func TestRealServers(t *testing.T) {
	h := http.NewServeMux()
	h.HandleFunc("/chunked", func(w http.ResponseWriter, _ *http.Request) {
		for range 3 {
			_, _ = io.WriteString(w, "some words")
			w.(http.Flusher).Flush()
		}
	})
	h.HandleFunc("/wrong", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	defer s.Close()
	to := netip.MustParseAddrPort(s.Listener.Addr().String())
	o := load.Options{Connections: 2, Streams: 3, Duration: 50 * time.Millisecond, Authority: "a"}
	for _, ask := range []func(netip.AddrPort, load.Options) (load.Result, error){load.HTTP1, load.HTTP2} {
		o.Path = "/chunked"
		if r, err := ask(to, o); err != nil || r.Count == 0 || r.Failed > 0 {
			t.Errorf("chunked: %+v, %v", r, err)
		}
		o.Path = "/wrong"
		if r, err := ask(to, o); err != nil || r.All == 0 || r.Failed != r.All {
			t.Errorf("errors: %+v, %v", r, err)
		}
	}
}

// TestRealClients: the servers with clients that everybody uses.
func TestRealClients(t *testing.T) {
	server(t)
	get := func(proto *http.Protocols, url string) (string, http.Header) {
		t.Helper()
		tr := &http.Transport{Protocols: proto}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr, Timeout: 5 * time.Second}).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s, %v", url, resp.Status, err)
		}
		return string(b), resp.Header
	}
	var one, two http.Protocols
	one.SetHTTP1(true)
	two.SetUnencryptedHTTP2(true)
	b, h := get(&one, "http://127.0.0.1:17403/70000?canary")
	if len(b) != 70000 || h.Get("X-Echo") != "canary" {
		t.Errorf("%d bytes, %v", len(b), h)
	}
	if b, _ := get(&two, "http://127.0.0.1:17404/"); len(b) != 128 {
		t.Errorf("%d bytes", len(b))
	}
	conn, err := grpc.NewClient("127.0.0.1:17404", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 3 {
		in, out := wrapperspb.String(strings.Repeat("words ", 30_000)), &wrapperspb.StringValue{}
		if err := conn.Invoke(t.Context(), "/any/Thing", in, out); err != nil || out.GetValue() != in.GetValue() {
			t.Errorf("a call: %d bytes back, %v", len(out.GetValue()), err)
		}
	}
}
