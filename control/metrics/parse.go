package metrics

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Names of what is kept of a scrape; the rest is read and let go.
const (
	ResponseTotal      = "response_total"
	ResponseLatency    = "response_latency_ms" // a histogram
	TCPOpenTotal       = "tcp_open_total"
	TCPOpenConnections = "tcp_open_connections"
	TCPReadBytes       = "tcp_read_bytes_total"
	TCPWriteBytes      = "tcp_write_bytes_total"
	RetryRequests      = "outbound_http_route_retry_requests_total"
	BalancerEndpoints  = "outbound_http_balancer_endpoints"
	BreakerShut        = "outbound_http_balancer_endpoint_shut_total"
	HTTPDenied         = "inbound_http_authz_deny_total"
	TCPDenied          = "inbound_tcp_authz_deny_total"
	HandshakeFailures  = "tls_handshake_failures_total"
	OutboundHTTPErrors = "outbound_http_errors_total"
	OutboundTCPErrors  = "outbound_tcp_errors_total"
	BuildInfo          = "proxy_build_info"
	CertExpiration     = "identity_cert_expiration_timestamp_seconds"
	processStart       = "process_start_time_seconds"
)

func kept(name string) bool {
	switch name {
	case ResponseTotal, ResponseLatency, TCPOpenTotal, TCPOpenConnections, TCPReadBytes, TCPWriteBytes, BuildInfo, CertExpiration,
		RetryRequests, BalancerEndpoints, BreakerShut, HTTPDenied, TCPDenied, HandshakeFailures, OutboundHTTPErrors, OutboundTCPErrors:
		return true
	}
	return false
}

// parse reads the text exposition format. began is when the process started,
// zero if it does not say.
func parse(r io.Reader) (samples []Scraped, began time.Time, err error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(r)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("parse metrics: %w", err)
	}
	for name, f := range families {
		if name == processStart && len(f.GetMetric()) == 1 {
			if v := value(f.GetMetric()[0]); v > 0 && !math.IsInf(v, 0) {
				began = time.UnixMilli(int64(v * 1000))
			}
		}
		if !kept(name) {
			continue
		}
		for _, m := range f.GetMetric() {
			samples = appendMetric(samples, name, m)
		}
	}
	return samples, began, nil
}

func appendMetric(samples []Scraped, name string, m *dto.Metric) []Scraped {
	labels := make(map[string]string, len(m.GetLabel())+1)
	for _, l := range m.GetLabel() {
		labels[l.GetName()] = l.GetValue()
	}
	h := m.GetHistogram()
	if h == nil {
		if v := value(m); !math.IsNaN(v) {
			samples = append(samples, Scraped{name, labels, v})
		}
		return samples
	}
	for _, b := range h.GetBucket() {
		with := make(map[string]string, len(labels)+1)
		for k, v := range labels {
			with[k] = v
		}
		with["le"] = strconv.FormatFloat(b.GetUpperBound(), 'g', -1, 64)
		samples = append(samples, Scraped{name + "_bucket", with, float64(b.GetCumulativeCount())})
	}
	return samples
}

// value of a metric that is not a histogram.
func value(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	case m.Untyped != nil:
		return m.Untyped.GetValue()
	}
	return math.NaN()
}
