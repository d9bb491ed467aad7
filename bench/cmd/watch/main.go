// Watch is who looks on while a sidecar is measured: what it sees, it counts and
// throws away.
//
//	watch tap SOCKET PER-SECOND NAMESPACE/POD   follows a tap of everything, by the control plane's socket
//	watch spans ADDR                            is a collector of traces: OTLP over gRPC
//
// Four times a second it prints what it saw so far, as "events=3 lost=0".
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	query "github.com/tunmesh/tunmesh/api/query"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "watch:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	switch {
	case len(args) == 4 && args[0] == "tap":
		rps, err := strconv.ParseUint(args[2], 10, 32)
		if err != nil {
			return fmt.Errorf("%q is no number of requests a second", args[2])
		}
		return tap(ctx, args[1], uint32(rps), args[3], out)
	case len(args) == 2 && args[0] == "spans":
		return collect(ctx, args[1], out)
	}
	return errors.New("want tap SOCKET PER-SECOND NAMESPACE/POD, or spans ADDR")
}

// tap follows all requests of a pod.
func tap(ctx context.Context, socket string, rps uint32, pod string, out io.Writer) error {
	namespace, name, _ := strings.Cut(pod, "/")
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := query.NewQueryClient(conn).Tap(ctx, &query.TapRequest{
		Resource: &query.Selector{Kind: "pod", Name: name, Namespace: namespace}, MaxRps: rps,
	}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	var events, lost atomic.Uint64
	go tell(ctx, out, func() string { return fmt.Sprintf("events=%d lost=%d", events.Load(), lost.Load()) })
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if m.GetEvent() != nil {
			events.Add(1)
		}
		lost.Add(m.GetLost())
	}
}

// collect takes whatever is exported, until ctx ends.
func collect(ctx context.Context, addr string, out io.Writer) error {
	var exports, bytes atomic.Uint64
	s := &http.Server{Addr: addr, Protocols: new(http.Protocols), ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return
		}
		exports.Add(1)
		bytes.Add(uint64(n))
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = w.Write(make([]byte, 5)) // an empty message: all was taken; who left does not care
		w.Header().Set("Grpc-Status", "0")
	})}
	s.Protocols.SetUnencryptedHTTP2(true)
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	go tell(ctx, out, func() string { return fmt.Sprintf("exports=%d bytes=%d", exports.Load(), bytes.Load()) })
	return s.ListenAndServe()
}

// tell prints what was seen, now and then.
func tell(ctx context.Context, out io.Writer, seen func() string) {
	t := time.NewTicker(250 * time.Millisecond)
	defer t.Stop()
	for {
		fmt.Fprintln(out, seen())
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}
