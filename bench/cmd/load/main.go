// Command load is one end of a measurement. It serves:
//
//	load serve KIND=ADDR…            (echo, sink, http1, http2)
//
// or loads what answers at TARGET and prints one JSON object:
//
//	load ping|bulk|connect|storm|handshake|http1|http2|grpc|stream [flags] TARGET
//
// and "load idle-http1|idle-echo [flags] TARGET" opens connections, uses each
// once and keeps them.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/bench/load"
	"github.com/tunmesh/tunmesh/bench/pki"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load: error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("say serve, ping, bulk, connect, storm, handshake, http1, http2, grpc, stream, idle-http1 or idle-echo")
	}
	// One thread that never gives way, and a collector that comes when there is
	// much to collect: what is measured makes no garbage.
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(512 << 20)
	if args[0] == "serve" {
		return serve(args[1:])
	}
	return client(args)
}

func serve(args []string) error {
	var ports []load.Port
	for _, a := range args {
		kind, addr, ok := strings.Cut(a, "=")
		p, err := netip.ParseAddrPort(addr)
		if !ok || err != nil {
			return fmt.Errorf("serve %q: need KIND=ADDR with a kind of %s", a, load.KindList)
		}
		switch k := load.Kind(kind); k {
		case load.Echo, load.Sink, load.ServeH1, load.ServeH2:
			ports = append(ports, load.Port{Kind: k, Addr: p})
		default:
			return fmt.Errorf("serve %q: the kinds are %s", a, load.KindList)
		}
	}
	return load.Serve(ports)
}

func client(args []string) error {
	fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
	var o load.Options
	fs.IntVar(&o.Connections, "conns", 1, "connections at once")
	fs.IntVar(&o.Streams, "streams", 1, "requests at once on a connection of HTTP/2")
	fs.DurationVar(&o.Duration, "duration", 2*time.Second, "how long to measure, or to keep idle connections")
	fs.Float64Var(&o.Rate, "rate", 0, "requests per second, at constant intervals; 0 as fast as answers come")
	fs.StringVar(&o.Authority, "authority", "bench", "of requests")
	fs.IntVar(&o.Names, "names", 1, "of HTTP/1.1: how many authorities connections ask for, in turn: 0.AUTHORITY, 1.AUTHORITY, …")
	fs.StringVar(&o.Path, "path", "/", "of requests")
	fs.BoolVar(&o.Finish, "finish", false, "at the end, wait for the answers to all requests")
	size := fs.Int("size", 128, "bytes of a message")
	cert := fs.String("cert", "", "of handshakes: PEM file of the client's chain")
	key := fs.String("key", "", "of handshakes: PEM file of its key")
	alpn := fs.String("alpn", "", "of handshakes: the protocol to ask for")
	http1 := fs.Bool("http1", false, "of handshakes: the round trip is a request of HTTP/1.1, not bytes")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	if fs.NArg() != 1 {
		return fmt.Errorf("%s: %d addresses, need 1", args[0], fs.NArg())
	}
	to, err := netip.ParseAddrPort(fs.Arg(0))
	if err != nil {
		return err
	}
	var r load.Result
	switch args[0] {
	case "ping":
		r, err = load.PingPong(to, o.Connections, *size, o.Duration)
	case "bulk":
		r, err = load.Bulk(to, o.Connections, o.Duration)
	case "connect":
		if o.Connections > 1 {
			r, err = load.Connects(to, o.Connections, *size, o.Duration)
		} else {
			r, err = load.Connect(to, *size, o.Duration)
		}
	case "storm":
		r, err = load.Storm(to, o.Connections, *size, o.Duration)
	case "handshake":
		var cfg *tls.Config
		if cfg, err = secured(*cert, *key, *alpn); err == nil {
			r, err = load.Handshakes(to, cfg, o.Connections, *size, *http1, o.Duration)
		}
	case "http1":
		r, err = load.HTTP1(to, o)
	case "http2":
		r, err = load.HTTP2(to, o)
	case "grpc":
		r, err = load.GRPC(to, o, *size)
	case "stream":
		r, err = load.Stream(to, o, *size)
	case "idle-http1":
		r, err = load.HoldHTTP1(to, o)
	case "idle-echo":
		r, err = load.Hold(to, o.Connections, *size, o.Duration)
	default:
		return fmt.Errorf("%s: not a command", args[0])
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// secured is a client that proves itself and takes any server: what is measured
// is the server's side, which was proved before.
func secured(cert, key, alpn string) (*tls.Config, error) {
	c, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{c}, MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, ServerName: pki.Name("server")} //nolint:gosec // as said
	if alpn != "" {
		cfg.NextProtos = []string{alpn}
	}
	return cfg, nil
}
