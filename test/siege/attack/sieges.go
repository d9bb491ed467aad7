package attack

import (
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
)

// Sieges are clients who hold what they can, for as long as they can, and move no
// faster than they must. hello is the first bytes of a TLS client of the mesh.
func Sieges(hello []byte) []Attack {
	slow := func(what string) []string { return []string{`what="` + what + `"`} }
	no := []frame.Setting{{ID: frame.InitialWindowSize, Value: 0}}
	full := []string{`reason="client_limit"`}
	get := []byte("GET / HTTP/1.1\r\nHost: b\r\n\r\n")
	return []Attack{
		{Name: "windows of 0", App: App{Bytes: 16 << 10}, Metric: "held_limit_total", Labels: []string{`layer="http"`},
			Replay: Replay{Bytes: Requests(100, true, no), Begin: 4, Every: tick, AtOnce: 4}},
		{Name: "10,000 streams that wait", Metric: "http2_refused_streams_total",
			// One after the other: the app has to say first that it takes so many, or most
			// wait for its connection, where fewer may.
			Replay: Replay{Bytes: Requests(1010, true, nil), Begin: 1, Every: tick, AtOnce: 10}},
		{Name: "slow heads", Metric: "slow_peers_total", Labels: slow("head"),
			Replay: Replay{Bytes: []byte("GET / HTTP/1.1\r\n"), Then: []byte("a"), Gap: tick, Begin: 100, Every: tick, AtOnce: 100}},
		{Name: "slow bodies", Metric: "slow_peers_total", Labels: slow("body"),
			Replay: Replay{Bytes: Requests(1, false, nil, "content-length", "100000"), Then: frame.AppendData(nil, 1, []byte("x"), false), Gap: tick, Begin: 100, Every: tick, AtOnce: 100}},
		{Name: "readers who read nothing", App: App{Endless: true}, Metric: "held_limit_total", Labels: []string{`layer="tcp"`},
			Replay: Replay{Bytes: get, Begin: 10, Every: tick, AtOnce: 100, Deaf: true}},
		{Name: "slow readers", App: App{Bytes: 60 << 10}, Metric: "slow_peers_total", Labels: slow("reading"),
			Replay: Replay{Bytes: Requests(1, true, no), Then: frame.AppendWindowUpdate(nil, 1, 1), Gap: tick, Begin: 100, Every: tick, AtOnce: 100}},
		{Name: "100,000 connections, 2,000 a second", Metric: "tcp_open_total", Labels: []string{`direction="inbound"`, `peer="src"`},
			Replay: Replay{Bytes: get, Begin: 10, Every: 5 * time.Millisecond, AtOnce: 100, Gives: tick, Bystander: true}},
		{Name: "connections that never speak", Metric: "netstack_drops_total", Labels: full,
			Replay: Replay{Begin: 20, Every: tick, AtOnce: 2000}},
		{Name: "connections that begin to speak", Metric: "netstack_drops_total", Labels: full,
			Replay: Replay{Bytes: []byte("G"), Begin: 20, Every: tick, AtOnce: 2000}},
		{Name: "TLS handshakes that are half done", Metric: "tls_handshake_failures_total", Labels: []string{`reason="timeout"`},
			Replay: Replay{Bytes: hello, Begin: 10, Every: tick, AtOnce: 1000}},
		{Name: "TLS handshakes that come to nothing", Metric: "tls_handshakes_waited_total",
			Replay: Replay{Bytes: append(hello[:len(hello):len(hello)], "\x15\x03\x03\x00\x02\x02\x28"...), Begin: 250, Every: 500 * time.Millisecond, AtOnce: 1000}},
	}
}
