package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// or is the address that a server has when nobody says another.
func or(addr, otherwise string) string {
	if addr == "" {
		return otherwise
	}
	return addr
}

func serve(ctx context.Context, addr string) error {
	addr = or(addr, ":8080")
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s\n", host, r.RemoteAddr)
		fmt.Printf("%s %s from %s\n", r.Method, r.URL.Path, r.RemoteAddr)
	})
	ok := func(http.ResponseWriter, *http.Request) {}
	mux.HandleFunc("/healthz", ok)
	mux.HandleFunc("/live", ok) // as the sidecar's, of which it can take the place
	mux.HandleFunc("/ready", ok)
	mux.HandleFunc("/ill/", http.NotFound)
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, os.Getenv(r.FormValue("name"))) })
	srv := &http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: limit}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	fmt.Println("serving at", addr)
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func serveAll(ctx context.Context) error {
	ended := make(chan error, 3)
	for _, f := range []func(context.Context, string) error{serve, serveTCP, serveGRPC} {
		go func() { ended <- f(ctx, "") }() // the process ends with the first of them
	}
	return <-ended
}

// serveTCP speaks first.
func serveTCP(ctx context.Context, addr string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", or(addr, ":8081"))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() { // ends with its connection
			defer conn.Close()
			fmt.Fprintf(conn, "%s %s\n", host, conn.RemoteAddr())
			_, _ = io.Copy(conn, conn) // the peer went: nobody to be told
		}()
	}
}

func serveGRPC(ctx context.Context, addr string) error {
	l, err := net.Listen("tcp", or(addr, ":8082"))
	if err != nil {
		return err
	}
	srv := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, health.NewServer())
	stop := context.AfterFunc(ctx, srv.Stop)
	defer stop()
	return srv.Serve(l)
}
