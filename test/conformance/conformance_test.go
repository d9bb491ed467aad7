package conformance_test

import "testing"

// TestConformance runs all in one mesh: pods take longer to start than most
// tests run.
func TestConformance(t *testing.T) {
	p := up(t)
	for _, tt := range []struct {
		name string
		run  func(*testing.T, *pair)
	}{
		{"requests", testRequests},
		{"responses", testResponses},
		{"pipelining", testPipelining},
		{"tunnels", testTunnels},
		{"connect-http2", testConnectHTTP2},
		{"connect-translated", testConnectTranslated},
		{"go", testGo},
		{"curl", testCurl},
		{"python", testPython},
		{"h2spec", testH2spec},
		{"h2spec-sidecar", testH2specOfTheSidecar},
		{"grpc", testGRPC},
		{"websocket", testWebSocket},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, p) })
	}
}
