package annotation

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// ResourcePrefix begins OpenTelemetry's annotations: what follows is the name of an
// attribute of the pod's spans.
const ResourcePrefix = "resource.opentelemetry.io/"

// DefaultCollectorPort is OTLP's for gRPC.
const DefaultCollectorPort = 4317

// ParseCollector reads a TraceCollector, into a host and a port.
func ParseCollector(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil { // no port
		host, port = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), strconv.Itoa(DefaultCollectorPort)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || !hostname(host) {
		return "", fmt.Errorf("%q is no address such as collector.observability:4317", s)
	}
	return net.JoinHostPort(host, port), nil
}

// hostname reports a name as DNS has it, or an address.
func hostname(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return true
}

// ParseSampling reads a TraceSampling, into a share of 0 to 1.
func ParseSampling(s string) (float64, error) {
	number, percent := strings.CutSuffix(s, "%")
	v, err := strconv.ParseFloat(number, 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v >= 0 && v <= 1) || strings.ContainsAny(number, "+xXpP_eE") { // NaN is neither
		return 0, fmt.Errorf("%q is no share such as 0.01 or 1%%, up to 1", s)
	}
	return v, nil
}

const (
	// maxResource bounds the attributes that a pod's annotations give its spans, and
	// maxName and maxValue each of them, in bytes; the rest is left out.
	maxResource = 32
	maxName     = 128
	maxValue    = 256
)

// Handed are the annotations of a pod that its sidecar is told.
func Handed(all map[string]string) map[string]string {
	out := map[string]string{}
	attributes := 0
	for _, k := range slices.Sorted(maps.Keys(all)) {
		name, is := strings.CutPrefix(k, ResourcePrefix)
		switch {
		case IsConfig(k):
			out[k] = all[k]
		case is && name != "" && attributes < maxResource && len(name) <= maxName && len(all[k]) <= maxValue:
			out[k] = all[k]
			attributes++
		}
	}
	return out
}
