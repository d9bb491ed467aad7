package catalog

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Protocol is a hint about the bytes of a connection. The numbers are those of
// tunmesh.destination.v1.Protocol.
type Protocol uint8

// Protocols.
const (
	Detect Protocol = iota
	Opaque
	HTTP1
	HTTP2
	TLS
)

// String names the protocol as the wire API does.
func (p Protocol) String() string {
	names := [...]string{"DETECT", "OPAQUE", "HTTP1", "HTTP2", "TLS"}
	if int(p) >= len(names) {
		return "unknown protocol " + strconv.Itoa(int(p))
	}
	return names[p]
}

// DefaultOpaquePorts are never parsed unless an annotation says otherwise: the
// well-known ports where servers speak first or that carry no HTTP (SMTP,
// submission, MySQL, Galera, PostgreSQL, Redis, Elasticsearch's transport,
// memcached). The list is Linkerd's, so that a mesh moves without surprises.
const DefaultOpaquePorts = "25,587,3306,4444,5432,6379,9300,11211"

// PortRange is a range of ports, both ends in it.
type PortRange struct {
	First, Last uint16
}

// PortSet is a set of ports.
type PortSet struct {
	Ranges []PortRange // sorted, apart from each other
}

// ParsePortSet reads an opaque-ports annotation: a comma-separated list of
// ports and ranges, such as "25,587,4000-4010". "" is the empty set, which
// says that no port is opaque, not even the default ones.
func ParsePortSet(s string) (*PortSet, error) {
	set := &PortSet{}
	if strings.TrimSpace(s) == "" {
		return set, nil
	}
	for item := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(item), "-")
		if !isRange {
			last = first
		}
		a, err := parsePort(first)
		if err != nil {
			return nil, fmt.Errorf("parse ports %q: %w", s, err)
		}
		b, err := parsePort(last)
		if err != nil {
			return nil, fmt.Errorf("parse ports %q: %w", s, err)
		}
		if b < a {
			return nil, fmt.Errorf("parse ports %q: range %q ends before it begins", s, item)
		}
		set.Ranges = append(set.Ranges, PortRange{a, b})
	}
	set.merge()
	return set, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port from 1 to 65535", s)
	}
	return uint16(n), nil
}

// merge sorts the ranges and joins those that touch.
func (s *PortSet) merge() {
	slices.SortFunc(s.Ranges, func(a, b PortRange) int { return int(a.First) - int(b.First) })
	out := s.Ranges[:0]
	for _, r := range s.Ranges {
		if n := len(out); n > 0 && int(r.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	s.Ranges = out
}

// Has reports whether port is in the set. A nil set is empty.
func (s *PortSet) Has(port uint16) bool {
	if s == nil {
		return false
	}
	for _, r := range s.Ranges {
		if port >= r.First && port <= r.Last {
			return true
		}
	}
	return false
}

// FromAppProtocol reads a Service port's appProtocol: what Kubernetes defines
// (KEP-3726) and names that people commonly write. An unknown one is no hint.
func FromAppProtocol(s string) Protocol {
	switch strings.ToLower(s) {
	case "http", "kubernetes.io/ws":
		return HTTP1
	case "http2", "h2c", "grpc", "kubernetes.io/h2c":
		return HTTP2
	case "https", "tls", "kubernetes.io/wss":
		return TLS
	case "tcp", "opaque", "tunmesh.io/opaque", "linkerd.io/opaque", "linkerd.io/tcp":
		return Opaque
	}
	return Detect
}

// hint decides a port's protocol. The nearest annotation wins, named by the
// sets in order; then appProtocol; then, where nothing was annotated, the
// defaults.
func (c *Catalog) hint(port uint16, appProtocol string, annotated ...*PortSet) Protocol {
	set := c.opaque
	for _, s := range annotated {
		if s == nil {
			continue
		}
		if s.Has(port) {
			return Opaque
		}
		set = nil
		break
	}
	if p := FromAppProtocol(appProtocol); p != Detect {
		return p
	}
	if set.Has(port) {
		return Opaque
	}
	return Detect
}
