// Package measure asks peers for work and accounts what it costs: it proves that
// a peer does what it says, runs workloads interleaved, and fills a
// result.Bench. It knows no peer in particular and renders nothing.
package measure

import (
	"fmt"

	"github.com/tunmesh/tunmesh/bench/load"
	"github.com/tunmesh/tunmesh/bench/peer"
	"github.com/tunmesh/tunmesh/bench/result"
)

// Workload is one way to load a peer.
type Workload struct {
	result.Workload
	Kind load.Kind
	// Args of the load program, but for the duration and the target.
	Args []string
	// Itself: the client speaks TLS to the server's side of a pair itself, from a
	// host outside.
	Itself bool
	// Pinned: every process on one CPU.
	Pinned bool
	// Quick: it is part of the quick mode.
	Quick bool
}

// without says why a peer is not asked for a workload; "" when it is.
func (w Workload) without(p *peer.Peer) string {
	if w.Itself && !p.MTLS {
		return "it speaks no TLS"
	}
	return p.Cannot[w.Kind]
}

const (
	requests    = "requests"
	roundTrips  = "round trips"
	connections = "connections"
	gigabytes   = "GB"
)

// All lists every workload, the ones that tell most first.
func All() []Workload {
	http1 := func(n int) Workload {
		return Workload{
			Workload: result.Workload{Name: fmt.Sprintf("h1-%d", n), About: fmt.Sprintf("HTTP/1.1, %d connections, 128 bytes", n), Unit: requests, Main: result.PerPair},
			Kind:     load.ServeH1, Args: []string{"http1", fmt.Sprintf("-conns=%d", n)}, Quick: true,
		}
	}
	one := http1(1)
	one.About = "HTTP/1.1, 1 connection, 128 bytes"
	add := func(name, about, unit, main string, kind load.Kind, quick bool, args ...string) Workload {
		return Workload{Workload: result.Workload{Name: name, About: about, Unit: unit, Main: main}, Kind: kind, Args: args, Quick: quick}
	}
	pinned := add("echo-1-pinned", "128 B round trips, 1 connection, everything on one CPU", roundTrips, result.P50, load.Echo, false, "ping", "-conns=1")
	pinned.Pinned = true
	handshake := add("handshake", "whole TLS handshakes of a stranger with the server's side, 8 at once, P-256 certificates on both sides: one exchange on each", connections, result.Rate, load.Echo, false, "handshake", "-conns=8")
	handshake.Itself = true
	return []Workload{
		one, http1(16), http1(64),
		add("h2", "HTTP/2, 8 connections with 16 streams, 128 bytes", requests, result.PerPair, load.ServeH2, true, "http2", "-conns=8", "-streams=16", "-authority=http2.bench"),
		add("grpc", "gRPC unary, 8 connections with 16 streams, 128 bytes", requests, result.PerPair, load.ServeH2, true, "grpc", "-conns=8", "-streams=16", "-authority=http2.bench", "-path=/bench.Echo/Unary"),
		add("echo-64", "128 B round trips of bytes, 64 connections", roundTrips, result.PerPair, load.Echo, true, "ping", "-conns=64"),
		add("connect", "connections of bytes, 16 at once: connect, one round trip, close", connections, result.Rate, load.Echo, true, "connect", "-conns=16"),
		add("bulk-1", "as many bytes as go, 1 connection", gigabytes, result.Gbit, load.Sink, true, "bulk", "-conns=1"),
		add("open-1k", "HTTP/1.1, 16 connections, 1,000 requests/s at constant intervals", requests, result.AddedP99, load.ServeH1, true, "http1", "-conns=16", "-rate=1000"),
		add("grpc-5k", "gRPC unary, 8 connections with 16 streams, 5,000 calls/s at constant intervals", requests, result.PerPair, load.ServeH2, true, "grpc", "-conns=8", "-streams=16", "-rate=5000", "-authority=http2.bench", "-path=/bench.Echo/Unary"),
		add("idle-1k", "1,000 idle connections of HTTP/1.1, after one request each", connections, result.ClientRSS, load.ServeH1, true, "idle-http1", "-conns=1000"),
		add("bulk-8", "as many bytes as go, 8 connections", gigabytes, result.Gbit, load.Sink, false, "bulk", "-conns=8"),
		add("grpc-1", "gRPC unary, 1 connection, 1 stream", requests, result.PerPair, load.ServeH2, false, "grpc", "-authority=http2.bench", "-path=/bench.Echo/Unary"),
		add("stream", "gRPC streams, 8 connections with 16, messages of 128 B to and fro", roundTrips, result.PerPair, load.ServeH2, false, "stream", "-conns=8", "-streams=16", "-authority=http2.bench", "-path=/bench.Echo/Stream"),
		add("h1-10k", "HTTP/1.1, 16 connections, answers of 10 KB", requests, result.PerPair, load.ServeH1, false, "http1", "-conns=16", "-path=/10240"),
		add("h1-1m", "HTTP/1.1, 8 connections, answers of 1 MB", requests, result.PerPair, load.ServeH1, false, "http1", "-conns=8", "-path=/1048576"),
		add("open-5k", "HTTP/1.1, 64 connections, 5,000 requests/s at constant intervals", requests, result.AddedP99, load.ServeH1, false, "http1", "-conns=64", "-rate=5000"),
		add("storm-2k", "2,000 connections of bytes at once, one round trip on each: how long until they are answered", connections, result.P99, load.Echo, false, "storm", "-conns=2000"),
		add("open-10k", "HTTP/1.1, 64 connections, 10,000 requests/s at constant intervals", requests, result.P99, load.ServeH1, false, "http1", "-conns=64", "-rate=10000"),
		add("names-40", "HTTP/1.1, 40 connections that ask for a name each, 1,000 requests/s: more than 1,000 series", requests, result.ServerRSS, load.ServeH1, false, "http1", "-conns=40", "-rate=1000", "-names=40"),
		add("idle-1k-echo", "1,000 idle connections of bytes, after one round trip each", connections, result.ClientRSS, load.Echo, false, "idle-echo", "-conns=1000"),
		handshake, pinned,
	}
}
