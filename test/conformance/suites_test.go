package conformance_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// testGRPC runs gRPC's interoperability suite: every case that needs no
// credentials of Google's, and the two soak tests.
func testGRPC(t *testing.T, p *pair) {
	port := p.port()
	program := filepath.Join(suites, "suites")
	p.server.start(t, port, program, "grpc-server", fmt.Sprintf(":%d", port))
	for _, name := range []string{
		"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
		"timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response", "custom_metadata",
		"status_code_and_message", "special_status_message", "unimplemented_method", "unimplemented_service",
		"rpc_soak", "channel_soak",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := p.client.output(t, time.Minute, program, "grpc", name, p.at(port)); err != nil {
				t.Error(err)
			}
		})
	}
}

// testWebSocket: a library's client and server, which check each other's
// handshake, and Go's net/http below them.
func testWebSocket(t *testing.T, p *pair) {
	port := p.port()
	program := filepath.Join(suites, "suites")
	p.server.start(t, port, program, "websocket-server", fmt.Sprintf(":%d", port))
	for range 2 { // the second upgrade meets the pool as the first left it
		if _, err := p.client.output(t, time.Minute, program, "websocket", "ws://"+p.at(port)+"/echo"); err != nil {
			t.Error(err)
		}
	}
}
