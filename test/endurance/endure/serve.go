package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

const (
	portHTTP = 8080 // HTTP/1.1, and HTTP/2 in the clear
	portGRPC = 8081
	// moodFile says how this server is to behave. It makes it, and the test writes
	// to it from outside: root of another user namespace can't make files here.
	moodFile = "/tmp/mood"
	// lame is how long a server that was told to end goes on, so that everybody
	// hears that it leaves; grace bounds what follows.
	lame  = time.Second
	grace = 5 * time.Second
	// work is the longest time that a request takes when all is well.
	work = 20 * time.Millisecond
)

// idHeader carries a request's number, and a response's.
const idHeader = "endure-id"

// podHeader and actHeader tell whose answer it is, and whether it is meant.
const (
	podHeader = "endure-pod"
	actHeader = "endure-act"
)

// What a server does with a request.
const (
	actServe = "serve"
	actError = "error" // an error of its own
	actBreak = "break" // breaks the connection, or the stream
)

func serveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "serve", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			host, err := os.Hostname()
			if err != nil {
				return err
			}
			f, err := os.Create(moodFile)
			if err != nil {
				return err
			}
			_ = f.Close() // nothing was written
			s := &server{host: host}
			s.mood.Store(&mood{})
			return s.run(cmd.Context())
		},
	}
}

type server struct {
	host  string
	mood  atomic.Pointer[mood]
	conns conns
}

// mood is how a server behaves: in words "slow", "error", "break".
type mood struct{ kind string }

// run serves until ctx ends, and then for as long as is polite.
func (s *server) run(ctx context.Context) error {
	g, fail := errgroup.WithContext(context.WithoutCancel(ctx))
	end, stop := context.WithCancel(fail)
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lame, stop) })()
	g.Go(func() error { return s.serveHTTP(end) })
	g.Go(func() error { return s.serveGRPC(end) })
	g.Go(func() error { s.feel(end); return nil })
	s.note("born", "-")
	return g.Wait()
}

// feel follows the file that says how to behave.
func (s *server) feel(ctx context.Context) {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		raw, _ := os.ReadFile(moodFile) // without one all is well
		if kind := string(bytes.TrimSpace(raw)); kind != s.mood.Load().kind {
			s.mood.Store(&mood{kind: kind})
		}
	}
}

// note writes a line to the log, which outlives this process however it ends:
// one write, before anything is done.
func (s *server) note(what, id string) {
	_, _ = os.Stdout.Write(fmt.Appendf(nil, "%s %s %d\n", what, id, time.Now().UnixNano()))
}

// decide says what becomes of a request, and waits first where it should.
func (s *server) decide(ctx context.Context, id string) string {
	act, wait := actServe, rand.N(work)
	switch s.mood.Load().kind {
	case "slow":
		wait = time.Duration(50+rand.IntN(1500)) * time.Millisecond
	case "error":
		if rand.IntN(3) > 0 {
			act = actError
		}
	case "break":
		if rand.IntN(3) > 0 {
			act = actBreak
		}
	}
	s.note(act, id)
	select {
	case <-time.After(wait):
	case <-ctx.Done():
	}
	return act
}

func (s *server) serveHTTP(ctx context.Context) error {
	h := &http.Server{Addr: fmt.Sprintf(":%d", portHTTP), Handler: s, ReadHeaderTimeout: time.Minute, Protocols: new(http.Protocols)}
	h.Protocols.SetHTTP1(true)
	h.Protocols.SetUnencryptedHTTP2(true)
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		ended <- h.Shutdown(ctx)
	}()
	if err := h.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	return <-ended
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get(idHeader)
	act := s.decide(r.Context(), id)
	if act == actBreak {
		s.breakHTTP(w)
	}
	got, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set(idHeader, id)
	w.Header().Set(podHeader, s.host)
	if act == actError {
		w.Header().Set(actHeader, act)
		w.WriteHeader(500 + rand.IntN(5))
		return
	}
	// What came goes back, or something of another length.
	if len(got) == 0 {
		got = body(id, len(id)*37%2000)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(got)))
	_, _ = w.Write(got)
}

// breakHTTP resets the connection of HTTP/1, the stream of HTTP/2.
func (s *server) breakHTTP(w http.ResponseWriter) {
	if h, ok := w.(http.Hijacker); ok {
		if c, _, err := h.Hijack(); err == nil {
			abort(c)
		}
	}
	panic(http.ErrAbortHandler)
}

func abort(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// body is n bytes that only id has.
func body(id string, n int) []byte {
	b := bytes.Repeat([]byte(id+" "), n/(len(id)+1)+1)
	return b[:n]
}

func (s *server) serveGRPC(ctx context.Context) error {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", portGRPC))
	if err != nil {
		return err
	}
	g := grpc.NewServer()
	healthpb.RegisterHealthServer(g, &health{s: s})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		defer time.AfterFunc(grace, g.Stop).Stop()
		g.GracefulStop()
	}()
	if err := g.Serve(s.conns.over(l)); err != nil {
		return err
	}
	<-ended
	return nil
}

type health struct {
	healthpb.UnimplementedHealthServer
	s *server
}

// Check implements the service: its request's name is the request's number.
func (h *health) Check(ctx context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	act := h.s.decide(ctx, r.Service)
	if p, ok := peer.FromContext(ctx); ok && act == actBreak {
		// The connection with all that is under way on it.
		h.s.note("cut", r.Service)
		h.s.conns.abort(p.Addr.String())
	}
	_ = grpc.SetHeader(ctx, metadata.Pairs(idHeader, r.Service, podHeader, h.s.host))
	if act == actError {
		_ = grpc.SetTrailer(ctx, metadata.Pairs(actHeader, act, podHeader, h.s.host))
		return nil, status.Error([]codes.Code{codes.Unavailable, codes.Internal, codes.ResourceExhausted}[rand.IntN(3)], "meant")
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}
