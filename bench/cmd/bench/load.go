package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/bench/load"
)

type loadFlags struct {
	o        load.Options
	protocol string
	tcp      bool // what the target says
	size     int
	output   string
}

func loadCommand() *cobra.Command {
	var f loadFlags
	cmd := &cobra.Command{
		Use:   "load URL",
		Short: "Load any plain-text service: HTTP/1.1, HTTP/2, gRPC or an echo of bytes; closed or open loop",
		Long: `Load a service and say how it answers. http://HOST:PORT/PATH is asked with GET, or
with --protocol grpc its path is called as a unary method that takes any message;
tcp://HOST:PORT is sent messages that it has to send back.
Without --rate each connection asks as soon as it is answered. With --rate requests
leave at constant intervals and their latency counts from when they should have
left, so that a slow answer is held against all that wait for it. Ctrl-C ends it
with the figures so far. TLS is not spoken: within a mesh the sidecars do.`,
		Example: "  bench load http://10.96.0.7:80/ --connections 16\n  bench load http://web.shop/ --rate 500 --duration 1m\n  bench load tcp://db.shop:7000 -c 64 --size 1024 -o json",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.protocol, "protocol", "http1", "http1, http2 (prior knowledge) or grpc")
	fs.IntVarP(&f.o.Connections, "connections", "c", 16, "connections at once")
	fs.IntVarP(&f.o.Streams, "streams", "m", 8, "requests at once on a connection of http2 and grpc")
	fs.DurationVarP(&f.o.Duration, "duration", "d", 10*time.Second, "how long, after 300 ms of warm-up")
	fs.Float64Var(&f.o.Rate, "rate", 0, "requests per second in all; 0: as fast as answers come")
	fs.IntVar(&f.size, "size", 128, "bytes of a message of gRPC or tcp://")
	fs.StringVarP(&f.output, "output", "o", "text", "text, or json: one object, with the histogram")
	return cmd
}

func (f *loadFlags) run(cmd *cobra.Command, target string) error {
	to, err := f.target(cmd.Context(), target)
	if err != nil {
		return err
	}
	if f.output != "text" && f.output != "json" {
		return fmt.Errorf("-o %s: choose of text and json", f.output)
	}
	if f.tcp && f.size < 1 {
		return errors.New("--size has to be above 0: nothing would come back")
	}
	if f.o.Connections < 1 || f.o.Streams < 1 || f.o.Duration <= 0 || f.o.Rate < 0 || f.size < 0 {
		return errors.New("--connections, --streams and --duration have to be above 0, --rate and --size not below")
	}
	if f.protocol == "grpc" && f.o.Streams*f.size > 30_000 {
		return fmt.Errorf("--streams %d × --size %d: more than 30,000 bytes under way on a connection are not supported", f.o.Streams, f.size)
	}
	var done atomic.Uint64
	var stop atomic.Bool
	f.o.Progress, f.o.Stop = &done, &stop
	end := context.AfterFunc(cmd.Context(), func() {
		fmt.Fprintln(cmd.ErrOrStderr(), "\ninterrupted: the figures so far") // after the terminal's ^C
		stop.Store(true)
	})
	defer end()
	pace := "each asks as soon as it is answered"
	if f.o.Rate > 0 {
		pace = fmt.Sprintf("%g requests/s in all", f.o.Rate)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "loading %s (%v): %d connections, %s, for %v\n", target, to, f.o.Connections, pace, f.o.Duration)
	over := make(chan struct{})
	shown := make(chan struct{})
	go func() { defer close(shown); progress(cmd.ErrOrStderr(), &done, over) }()
	runtime.LockOSThread()
	var r load.Result
	switch {
	case f.tcp:
		r, err = load.Bytes(to, f.o, f.size)
	case f.protocol == "http1":
		r, err = load.HTTP1(to, f.o)
	case f.protocol == "http2":
		r, err = load.HTTP2(to, f.o)
	case f.protocol == "grpc":
		r, err = load.GRPC(to, f.o, f.size)
	}
	close(over)
	<-shown
	if err != nil {
		return err
	}
	if r.All == 0 {
		return fmt.Errorf("load %s: no answer; does it speak what was asked for?", target)
	}
	if f.output == "json" {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
	}
	return sayLoad(cmd.OutOrStdout(), r)
}

// target finds the address, and fills in what requests say.
func (f *loadFlags) target(ctx context.Context, target string) (netip.AddrPort, error) {
	var none netip.AddrPort
	if f.protocol != "http1" && f.protocol != "http2" && f.protocol != "grpc" {
		return none, fmt.Errorf("--protocol %q: choose of http1, http2 and grpc", f.protocol)
	}
	u, err := url.Parse(target)
	if err != nil {
		return none, err
	}
	f.tcp = u.Scheme == "tcp"
	if u.Scheme != "http" && !f.tcp || u.Hostname() == "" || f.tcp && u.Port() == "" {
		return none, fmt.Errorf("%q: need http://HOST[:PORT][/PATH] or tcp://HOST:PORT", target)
	}
	port := uint64(80)
	if u.Port() != "" {
		if port, err = strconv.ParseUint(u.Port(), 10, 16); err != nil {
			return none, fmt.Errorf("%q: port: %w", target, err)
		}
	}
	f.o.Authority, f.o.Path = u.Host, u.RequestURI()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		return none, fmt.Errorf("find %s: %w", u.Hostname(), err)
	}
	return netip.AddrPortFrom(ips[0].Unmap(), uint16(port)), nil
}

// progress writes a line a second until it is over.
func progress(w io.Writer, done *atomic.Uint64, over <-chan struct{}) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	last := uint64(0)
	for {
		select {
		case <-t.C:
			n := done.Load()
			fmt.Fprintf(w, "%s  %d answers, %d in the last second\n", time.Now().Format("15:04:05"), n, n-last)
			last = n
		case <-over:
			return
		}
	}
}

func sayLoad(w io.Writer, r load.Result) error {
	_, err := fmt.Fprintf(w, "%d answers in %.1f s: %.0f/s, %d errors (of %d with the warm-up)\nlatency µs: p50 %.0f  p90 %.0f  p99 %.0f  p99.9 %.0f  max %.0f\n%d TCP retransmissions\n",
		r.Count, r.Seconds, r.Rate, r.Failed, r.All, r.P50, r.P90, r.P99, r.P999, r.Max, r.Retransmits)
	return err
}
