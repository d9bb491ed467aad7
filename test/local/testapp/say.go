package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// sayCommand sends a marker by every protocol that a server of serve speaks in
// the clear: MARKER-http1, MARKER-http2, MARKER-grpc, MARKER-bytes. Addresses
// are ports of a Service, or of a pod.
func sayCommand() *cobra.Command {
	var web, rpc, raw string
	c := &cobra.Command{
		Use: "say MARKER", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 20*time.Second)
			defer cancel()
			for name, f := range map[string]func(context.Context, string) error{
				"http1": func(ctx context.Context, m string) error { return sayHTTP(ctx, web, m, false) },
				"http2": func(ctx context.Context, m string) error { return sayHTTP(ctx, web, m, true) },
				"grpc":  func(ctx context.Context, m string) error { return sayGRPC(ctx, rpc, m) },
				"bytes": func(ctx context.Context, m string) error { return sayBytes(ctx, raw, m) },
			} {
				if err := f(ctx, args[0]+"-"+name); err != nil {
					return fmt.Errorf("say by %s: %w", name, err)
				}
			}
			return answer(map[string]bool{"said": true})
		},
	}
	c.Flags().StringVar(&web, "http", "", "HOST:PORT of HTTP/1.1 and of HTTP/2 in the clear")
	c.Flags().StringVar(&rpc, "grpc", "", "HOST:PORT of gRPC")
	c.Flags().StringVar(&raw, "bytes", "", "HOST:PORT of the echo")
	return c
}

func sayHTTP(ctx context.Context, to, marker string, h2 bool) error {
	p := new(http.Protocols)
	p.SetHTTP1(!h2)
	p.SetUnencryptedHTTP2(h2)
	tr := &http.Transport{Protocols: p}
	defer tr.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+to+"/"+marker, strings.NewReader(strings.Repeat(marker+" ", 200)))
	if err != nil {
		return err
	}
	r.Header.Set("Marker", marker)
	resp, err := (&http.Client{Transport: tr}).Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// The answer has the path, and so the marker, too.
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), marker) {
		return fmt.Errorf("status %d, %q: %v", resp.StatusCode, body, err)
	}
	return nil
}

func sayGRPC(ctx context.Context, to, marker string) error {
	conn, err := grpc.NewClient("passthrough:///"+to, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: strings.Repeat(marker+" ", 20)}, grpc.WaitForReady(true))
	return err
}

func sayBytes(ctx context.Context, to, marker string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	end, _ := ctx.Deadline()
	_ = conn.SetDeadline(end)
	marker += "\r\n" // without, it might become an HTTP method, and be waited for
	if _, err := io.WriteString(conn, marker); err != nil {
		return err
	}
	back := make([]byte, len(marker))
	if _, err := io.ReadFull(conn, back); err != nil || string(back) != marker {
		return fmt.Errorf("the echo is %q: %v", back, err)
	}
	return nil
}
