package inject

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/internal/annotation"
)

// validate refuses configuration annotations that are unknown or malformed: one
// that is silently ignored is a policy that somebody believes in.
func validate(a map[string]string) error {
	keys := make([]string, 0, len(a))
	for k := range a {
		if annotation.IsConfig(k) {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	for _, k := range keys {
		if err := validateOne(k, a[k]); err != nil {
			return fmt.Errorf("annotation %s: %w", k, err)
		}
	}
	return nil
}

func validateOne(key, v string) error {
	oneOf := func(allowed ...string) error {
		if slices.Contains(allowed, v) {
			return nil
		}
		return fmt.Errorf("%q is none of %s", v, strings.Join(allowed, ", "))
	}
	switch key {
	case annotation.DefaultInboundPolicy:
		return oneOf("all-unauthenticated", "all-authenticated", "cluster-unauthenticated", "cluster-authenticated", "deny", "audit")
	case annotation.ProxyQueues:
		return oneOf("1", "2")
	case annotation.ProxyMaxConnections:
		if n, err := strconv.ParseUint(v, 10, 20); err != nil || n < 100 {
			return fmt.Errorf("%q is no number of connections from 100 to a million", v)
		}
		return nil
	case annotation.ProxyLogLevel:
		return oneOf("debug", "info", "warn", "error")
	case annotation.AccessLog, annotation.LinkerdAccessLog:
		return oneOf("apache", "json")
	case annotation.TraceCollector:
		_, err := annotation.ParseCollector(v)
		return err
	case annotation.TraceSampling:
		_, err := annotation.ParseSampling(v)
		return err
	case annotation.ImagePullPolicy:
		return oneOf(string(corev1.PullAlways), string(corev1.PullIfNotPresent), string(corev1.PullNever))
	case annotation.DisableTap:
		return oneOf("true", "false")
	case annotation.OpaquePorts:
		return ports(v)
	case annotation.AllowIPProtocols:
		return protocols(v)
	case annotation.ShutdownGracePeriod:
		if d, err := time.ParseDuration(v); err != nil || d <= 0 {
			return fmt.Errorf("%q is no duration such as 120s", v)
		}
		return nil
	case annotation.ProxyCPURequest, annotation.ProxyCPULimit, annotation.ProxyMemoryRequest, annotation.ProxyMemoryLimit:
		return nil // resources checks them
	case annotation.ProxyImage:
		if v == "" || strings.ContainsAny(v, " \t\n") {
			return fmt.Errorf("%q is no image", v)
		}
		return nil
	}
	return fmt.Errorf("unknown; see docs/annotations.md for those that exist")
}

// ports checks a list such as "25,3306,9000-9100"; empty is none.
func ports(v string) error {
	for _, item := range list(v) {
		first, last, ranged := strings.Cut(item, "-")
		a, err := strconv.ParseUint(first, 10, 16)
		b := a
		if err == nil && ranged {
			b, err = strconv.ParseUint(last, 10, 16)
		}
		if err != nil || a == 0 || b < a {
			return fmt.Errorf("%q is no port or range such as 3306 or 9000-9100", item)
		}
	}
	return nil
}

func protocols(v string) error {
	for _, item := range list(v) {
		n, err := strconv.ParseUint(item, 10, 8)
		if err != nil {
			return fmt.Errorf("%q is no IP protocol number", item)
		}
		switch n {
		case 1, 6, 17, 58:
			return fmt.Errorf("%d (ICMP, TCP or UDP) is always carried and can't be listed", n)
		case 0, 43, 44, 60, 135, 139, 140: // the CNI plugin would refuse the pod
			return fmt.Errorf("%d is an IPv6 extension header, behind which anything may follow, and can't be listed", n)
		}
	}
	return nil
}

func list(v string) []string {
	var out []string
	for item := range strings.SplitSeq(v, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}
