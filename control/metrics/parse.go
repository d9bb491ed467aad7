package metrics

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Names of what is kept of a scrape; the rest is read and let go.
const (
	ResponseTotal      = "response_total"
	ResponseLatency    = "response_latency_ms" // a histogram, of which the buckets are kept
	latencyBucket      = ResponseLatency + "_bucket"
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
	case ResponseTotal, latencyBucket, TCPOpenTotal, TCPOpenConnections, TCPReadBytes, TCPWriteBytes, BuildInfo, CertExpiration,
		RetryRequests, BalancerEndpoints, BreakerShut, HTTPDenied, TCPDenied, HandshakeFailures, OutboundHTTPErrors, OutboundTCPErrors:
		return true
	}
	return false
}

// parse reads a page in the text exposition format. The samples borrow it. began is
// when the process started, zero if it does not say.
func parse(page []byte) (samples []Scraped, began time.Time, err error) {
	for n := 1; len(page) > 0; n++ {
		var text []byte
		text, page, _ = bytes.Cut(page, []byte{'\n'})
		text = bytes.TrimSpace(text)
		if len(text) == 0 || text[0] == '#' {
			continue
		}
		series, name, v, err := sampleOf(text)
		if err != nil {
			return nil, time.Time{}, fmt.Errorf("parse metrics: line %d: %w", n, err)
		}
		if string(name) == processStart && v > 0 && !math.IsInf(v, 0) {
			began = time.UnixMilli(int64(v * 1000))
		}
		if kept(string(name)) && !math.IsNaN(v) {
			samples = append(samples, Scraped{series, v})
		}
	}
	return samples, began, nil
}

// sampleOf reads one line.
func sampleOf(text []byte) (series, name []byte, value float64, err error) {
	end, err := readSeries(text, nil)
	if err != nil {
		return nil, nil, 0, err
	}
	series, name = text[:end], text[:nameEnd(text)]
	fields := text[end:]
	if len(fields) == 0 || fields[0] != ' ' && fields[0] != '\t' {
		return nil, nil, 0, errors.New("no value")
	}
	fields = bytes.TrimLeft(fields, " \t")
	number, stamp, _ := bytes.Cut(fields, []byte{' '})
	if value, err = strconv.ParseFloat(string(number), 64); err != nil {
		return nil, nil, 0, fmt.Errorf("value %.40q: %w", number, errors.Unwrap(err))
	}
	if stamp = bytes.TrimSpace(stamp); len(stamp) > 0 {
		if _, err := strconv.ParseInt(string(stamp), 10, 64); err != nil {
			return nil, nil, 0, fmt.Errorf("time %.40q: %w", stamp, errors.Unwrap(err))
		}
	}
	return series, name, value, nil
}

// nameEnd is where the name at the beginning of a text ends.
func nameEnd[T string | []byte](text T) int {
	for i := range len(text) {
		if c := text[i]; c != '_' && c != ':' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9' || i == 0) {
			return i
		}
	}
	return len(text)
}

// readSeries reads a name and labels, calls each for every label with its value as it
// is written, and returns where they end.
func readSeries[T string | []byte](text T, each func(name, value T)) (end int, err error) {
	if end = nameEnd(text); end == 0 {
		return 0, errors.New("no name")
	}
	if end == len(text) || text[end] != '{' {
		return end, nil
	}
	for end++; ; {
		if end < len(text) && text[end] == '}' {
			return end + 1, nil
		}
		begin := end
		end += nameEnd(text[end:])
		name := text[begin:end]
		if len(name) == 0 || end+1 >= len(text) || text[end] != '=' || text[end+1] != '"' {
			return 0, errors.New("a label that is none")
		}
		end += 2
		for begin = end; end < len(text) && text[end] != '"'; end++ {
			if text[end] == '\\' {
				end++ // what is escaped
			}
		}
		if end >= len(text) {
			return 0, errors.New("a label that does not end")
		}
		if each != nil {
			each(name, text[begin:end])
		}
		if end++; end < len(text) && text[end] == ',' {
			end++
		} else if end >= len(text) || text[end] != '}' {
			return 0, errors.New("labels that do not end")
		}
	}
}

// unescape is a label's value.
func unescape(written string) string {
	if !strings.Contains(written, `\`) {
		return written
	}
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n").Replace(written)
}
