package query

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	api "github.com/tunmesh/tunmesh/api/query"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/control/metrics"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// failures says what went wrong between the two in the last minute, as the
// client's sidecars saw it.
func (w *why) failures(ctx context.Context) error {
	if !w.pod.Meshed {
		return nil
	}
	match := append(w.from.match(""), metrics.Is("direction", "outbound"))
	match = append(match, w.towards()...)
	list, err := w.s.metrics.Increase(ctx, metrics.ResponseTotal, match, []string{"classification", "status_code", "grpc_status", "error"}, defaultWindow)
	if err != nil {
		return err
	}
	total, failed, broken := 0.0, 0.0, 0.0
	kinds := map[string]float64{}
	for _, x := range list {
		total += x.Value
		if x.Labels["classification"] == "success" || x.Value == 0 {
			continue
		}
		failed += x.Value
		if x.Labels["error"] != "" {
			broken += x.Value
		}
		kinds[failure(x.Labels)] += x.Value
	}
	switch {
	case total == 0:
		w.note("failures", "No request between the two ended in the last minute.")
	case failed == 0:
		w.ok("failures", "%.0f requests in the last minute, none failed.", total)
	default:
		w.note("failures", "%.0f of %.0f requests failed in the last minute: %s.", failed, total, counted(kinds))
		w.partly = w.partly || broken > 0
	}
	var more []string
	for _, q := range []struct{ metric, label, text string }{
		{metrics.HandshakeFailures, "reason", "handshakes with other sidecars"},
		{metrics.OutboundTCPErrors, "error", "connections"},
		{metrics.OutboundHTTPErrors, "error", "requests that the sidecar answered itself"},
	} {
		m := w.from.match("")
		if q.metric == metrics.HandshakeFailures {
			m = append(m, metrics.Is("direction", "outbound"))
		}
		list, err := w.s.metrics.Increase(ctx, q.metric, m, []string{q.label}, defaultWindow)
		if err != nil {
			return err
		}
		kinds := map[string]float64{}
		for _, x := range list {
			if x.Value > 0 {
				kinds[x.Labels[q.label]] += x.Value
			}
		}
		if len(kinds) > 0 {
			more = append(more, q.text+" ("+counted(kinds)+")")
		}
	}
	if len(more) > 0 {
		w.note("failures", "Wherever they led, of %s failed in the last minute: %s.", w.source, strings.Join(more, "; "))
	}
	return w.refused(ctx)
}

// towards selects the series of what the client sent to the target.
func (w *why) towards() []metrics.Matcher {
	if w.service != nil {
		return []metrics.Matcher{metrics.Is("dst_namespace", w.service.Namespace), metrics.Is("dst_service", w.service.Name)}
	}
	var spaces, pods []string
	for _, e := range w.ends {
		spaces, pods = append(spaces, e.Pod.Namespace), append(pods, e.Pod.Name)
	}
	return []metrics.Matcher{metrics.Is("dst_namespace", spaces...), metrics.Is("dst_pod", pods...)}
}

// refused says whom the other side has turned away, whoever it was.
func (w *why) refused(ctx context.Context) error {
	var spaces, pods []string
	for _, e := range w.ends {
		spaces, pods = append(spaces, e.Pod.Namespace), append(pods, e.Pod.Name)
	}
	match := []metrics.Matcher{metrics.Is("namespace", spaces...), metrics.Is("pod", pods...)}
	sum := 0.0
	for _, m := range []string{metrics.HTTPDenied, metrics.TCPDenied} {
		list, err := w.s.metrics.Increase(ctx, m, match, nil, defaultWindow)
		if err != nil {
			return err
		}
		for _, x := range list {
			sum += x.Value
		}
	}
	if sum > 0 {
		w.note("failures", "Policy at the other end refused %.0f connections and requests in the last minute, of whomever.", sum)
	}
	return nil
}

func failure(l map[string]string) string {
	switch {
	case l["error"] != "":
		return l["error"]
	case l["grpc_status"] != "" && l["grpc_status"] != "0":
		return "grpc-status " + l["grpc_status"]
	}
	return "status " + l["status_code"]
}

// counted is "3 status 503, 1 reset", the most frequent first.
func counted(kinds map[string]float64) string {
	names := slices.SortedFunc(maps.Keys(kinds), func(a, b string) int {
		if kinds[a] != kinds[b] {
			return int(kinds[b]-kinds[a]) | 1
		}
		return strings.Compare(a, b)
	})
	var parts []string
	for _, n := range names {
		parts = append(parts, fmt.Sprintf("%.0f %s", kinds[n], n))
	}
	return strings.Join(parts, ", ")
}

// ruled says where a pod's default policy is from.
func (w *why) ruled(k catalog.Key) string {
	if p, ok := w.s.catalog.Pod(k); ok && p.Annotations[annotation.DefaultInboundPolicy] != "" {
		return "annotation of the pod"
	}
	if n, ok := w.s.catalog.Namespace(k.Namespace); ok && n.Annotations[annotation.DefaultInboundPolicy] != "" {
		return "annotation of namespace " + k.Namespace
	}
	return "the mesh's own"
}

// sum writes the verdict.
func (w *why) sum() {
	to := w.name
	if w.port != 0 {
		to = fmt.Sprintf("%s port %d", to, w.port)
	}
	switch {
	case w.resp.Verdict == api.WhyResponse_FAILS:
		w.resp.Summary = fmt.Sprintf("A connection from %s to %s would fail.", w.source, to)
	case w.partly:
		w.resp.Verdict = api.WhyResponse_DEGRADED
		w.resp.Summary = fmt.Sprintf("A connection from %s to %s works now and then.", w.source, to)
	default:
		w.resp.Summary = fmt.Sprintf("A connection from %s to %s would work.", w.source, to)
	}
}

// namespaces are those that the answer tells of.
func (w *why) namespaces() []string {
	seen := map[string]bool{w.from.resources[0].namespaceOf(): true}
	if w.service != nil {
		seen[w.service.Namespace] = true
	}
	for _, e := range w.ends {
		if e.Pod.Namespace != "" {
			seen[e.Pod.Namespace] = true
		}
	}
	return sortedKeys(seen)
}

// unready names what is not ready, and why as far as the cluster says.
func (w *why) unready(list []catalog.Endpoint) string {
	var names []string
	for _, e := range list {
		if e.Ready {
			continue
		}
		state := "not ready"
		if p, ok := w.s.catalog.Pod(e.Pod); ok {
			switch {
			case p.Outside:
				state = "its network was not set up by the mesh"
			case p.Terminating:
				state = "ends"
			case p.Phase != "Running":
				state = p.Phase
			}
		}
		names = append(names, fmt.Sprintf("%s (%s)", e.Addr, state))
	}
	return few(names)
}

func endpointNames(list []catalog.Endpoint) string {
	var names []string
	for _, e := range list {
		if e.Pod.Name == "" {
			names = append(names, e.Addr.String())
		} else {
			names = append(names, fmt.Sprintf("%s (%s)", e.Addr, e.Pod))
		}
	}
	return few(names)
}

// few leaves out what nobody reads to the end.
func few(names []string) string {
	if len(names) > 5 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:5], ", "), len(names)-5)
	}
	return strings.Join(names, ", ")
}

func pairs(m map[string]string) string {
	var parts []string
	for _, k := range sortedKeys(m) {
		parts = append(parts, k+"="+m[k])
	}
	return strings.Join(parts, ",")
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// plural is "1 pod is ready" or "3 pods are ready".
func plural(n int, what, one, many string) string {
	if n == 1 {
		return strings.TrimSpace("1 " + what + " " + one)
	}
	return strings.TrimSpace(fmt.Sprintf("%d %ss %s", n, what, many))
}

func capital(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}
