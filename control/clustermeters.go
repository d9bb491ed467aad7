package control

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tunmesh/tunmesh/control/repair"
)

// clusterMeters are the metrics that a plane has in a cluster only.
type clusterMeters struct {
	c *cluster
}

// Describe implements prometheus.Collector: the metrics are known when they are
// collected.
func (m *clusterMeters) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *clusterMeters) Collect(out chan<- prometheus.Metric) {
	tell := func(t prometheus.ValueType, name, help string, v float64, labels ...string) {
		var names, values []string
		for i := 0; i < len(labels); i += 2 {
			names, values = append(names, labels[i]), append(values, labels[i+1])
		}
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), t, v, values...)
	}
	src := m.c.source
	for _, kind := range src.Kinds() {
		tell(prometheus.GaugeValue, "kube_cache_size", "Objects of the cluster in memory.", float64(src.Size(kind)), "kind", kind)
		tell(prometheus.GaugeValue, "kube_watched", "1 while changes of the kind are heard of.", truth(src.Connected(kind)), "kind", kind)
		tell(prometheus.CounterValue, "kube_changes_total", "Changes of objects that made a difference.", float64(src.Changes(kind)), "kind", kind)
		tell(prometheus.CounterValue, "kube_lists_total", "Times that all objects of a kind were read.", float64(src.Lists(kind)), "kind", kind)
	}
	tell(prometheus.CounterValue, "kube_request_failures_total", "Lists and watches that the API server did not answer.", float64(src.Failures()))
	written, dropped := m.c.events.Counts()
	tell(prometheus.CounterValue, "kube_events_written_total", "Events written.", float64(written))
	tell(prometheus.CounterValue, "kube_events_dropped_total", "Events not written, for want of room or of an answer.", float64(dropped))
	if m.c.cfg.WebhookListen == "" {
		return
	}
	for ns, n := range m.c.bare.count() {
		tell(prometheus.GaugeValue, "unmeshed_pods", "Pods without a sidecar that they or their namespace ask for.", float64(n), "namespace", ns)
	}
	if r := m.c.repair; r != nil {
		for o := repair.Evicted; o <= repair.Failed; o++ {
			tell(prometheus.CounterValue, "repair_evictions_total", "Pods that this replica would have made again, by what became of it.", float64(r.Count(o)), "outcome", o.String())
		}
	}
	m.admission(tell)
	tell(prometheus.GaugeValue, "webhook_healthy", "1 while the webhook has the certificate that it should.", truth(m.c.keeper.Problem() == ""))
	ttl := 0.0
	if end := m.c.keeper.Expires(); !end.IsZero() {
		ttl = time.Until(end).Seconds()
	}
	tell(prometheus.GaugeValue, "webhook_cert_ttl_seconds", "Time until the webhook's certificate expires.", ttl)
}

// admission tells of the injector's questions and answers. A question that could not
// be read is nobody's.
func (m *clusterMeters) admission(tell func(t prometheus.ValueType, name, help string, v float64, labels ...string)) {
	type source struct{ kind, namespace string }
	asked, answers := m.c.inject.Counts()
	questions := map[source]uint64{}
	for a, n := range answers {
		questions[source{a.OwnerKind, a.Namespace}] += n
		asked -= min(asked, n)
		tell(prometheus.CounterValue, "proxy_inject_admission_responses_total", "Answers, by why a pod was skipped.", float64(n),
			"owner_kind", a.OwnerKind, "namespace", a.Namespace, "skip", skipOf(a.Reason), "skip_reason", a.Reason)
	}
	questions[source{}] += asked
	for s, n := range questions {
		tell(prometheus.CounterValue, "proxy_inject_admission_requests_total", "Pods that the API server asked about.", float64(n),
			"owner_kind", s.kind, "namespace", s.namespace)
	}
}

func skipOf(reason string) string {
	if reason == "" {
		return "false"
	}
	return "true"
}
