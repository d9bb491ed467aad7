package control

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// newAdmin makes the server of probes and metrics.
func newAdmin(ready func() error, registry *prometheus.Registry) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "live\n") })
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ready\n")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}

// serveAdmin serves until ctx ends.
func serveAdmin(ctx context.Context, s *http.Server, l net.Listener) error {
	failed := make(chan error, 1) // of one slot: Serve returns once
	go serveHTTP(s, l, failed)
	select {
	case err := <-failed:
		return fmt.Errorf("serve admin requests: %w", err)
	case <-ctx.Done():
	}
	if err := s.Close(); err != nil {
		return fmt.Errorf("stop serving admin requests: %w", err)
	}
	return ignoreStopped(<-failed)
}

// serveAPI serves the API server until ctx ends, then gives its questions a moment.
func serveAPI(ctx context.Context, s *http.Server, l net.Listener) error {
	failed := make(chan error, 1) // of one slot: Serve returns once
	go serveHTTPS(s, l, failed)
	select {
	case err := <-failed:
		return fmt.Errorf("serve the API server: %w", err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	if s.Shutdown(end) != nil {
		if err := s.Close(); err != nil {
			return fmt.Errorf("stop serving the API server: %w", err)
		}
	}
	return ignoreStopped(<-failed)
}

func serveHTTPS(s *http.Server, l net.Listener, failed chan<- error) {
	failed <- s.ServeTLS(l, "", "") // its TLSConfig has the certificate
}

func serveHTTP(s *http.Server, l net.Listener, failed chan<- error) { failed <- s.Serve(l) }
