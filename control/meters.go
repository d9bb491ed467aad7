package control

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/tunmesh/tunmesh/control/destination"
	"github.com/tunmesh/tunmesh/control/identity"
	"github.com/tunmesh/tunmesh/control/policy"
	"github.com/tunmesh/tunmesh/control/tap"
)

// meters are the control plane's own metrics.
type meters struct {
	registry *prometheus.Registry
	started  *prometheus.CounterVec
	handled  *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	lagging  prometheus.Histogram
}

// lag takes how long ago the cause of a change of endpoints was.
func (m *meters) lag(d time.Duration) { m.lagging.Observe(d.Seconds()) }

func newMeters() *meters {
	return &meters{
		registry: prometheus.NewRegistry(),
		started: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grpc_server_started_total", Help: "Calls begun.",
		}, []string{"grpc_method"}),
		handled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grpc_server_handled_total", Help: "Calls ended, by status code.",
		}, []string{"grpc_method", "grpc_code"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "grpc_server_handling_seconds", Help: "Duration of unary calls.", Buckets: prometheus.DefBuckets,
		}, []string{"grpc_method"}),
		lagging: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kube_endpointslice_lag_seconds", Help: "Time from the cause of a change of endpoints to the news of it here.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
	}
}

// meterSources are asked at each scrape.
type meterSources struct {
	ca          authority
	identity    *identity.Server
	destination *destination.Server
	policy      *policy.Server
	tap         *tap.Hub
	figures     *figures
	source      source
	cluster     *cluster // nil: from folders
}

// register adds everything to the registry.
func (m *meters) register(s meterSources) error {
	all := []prometheus.Collector{
		m.started, m.handled, m.latency,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		gauge("issuer_cert_ttl_seconds", "Time until the issuer's certificate expires.", func() float64 {
			if a := s.ca.Current(); a != nil {
				return time.Until(a.Issuer().NotAfter).Seconds()
			}
			return 0
		}),
		gauge("trust_anchors", "Trust anchors in force.", func() float64 {
			if a := s.ca.Current(); a != nil {
				return float64(len(a.Anchors()))
			}
			return 0
		}),
		gauge("certificate_authority_healthy", "1 while the authority in the files is the one in force.", func() float64 {
			return truth(s.ca.Problem() == "")
		}),
		counter("identity_certificates_issued_total", "Certificates issued.", func() float64 { n, _ := s.identity.Counts(); return float64(n) }),
		counter("identity_certificates_refused_total", "Requests for certificates refused.", func() float64 { _, n := s.identity.Counts(); return float64(n) }),
		gauge("destination_streams", "Open watches of targets.", func() float64 { return float64(s.destination.Streams()) }),
		counter("destination_updates_total", "Updates of targets sent.", func() float64 { return float64(s.destination.Sent()) }),
		gauge("policy_streams", "Open watches of policies.", func() float64 { return float64(s.policy.Streams()) }),
		gauge("tap_proxies", "Attached sidecars.", func() float64 { n, _ := s.tap.Counts(); return float64(n) }),
		gauge("tap_watches", "Running taps.", func() float64 { _, n := s.tap.Counts(); return float64(n) }),
	}
	all = append(all, s.figures.meters()...)
	if s.cluster != nil {
		all = append(all, m.lagging, &clusterMeters{s.cluster})
	} else {
		all = append(all, gauge("manifests_healthy", "1 while the manifests in the folders are those in force.", func() float64 {
			return truth(s.source.Problem() == nil)
		}))
	}
	for _, c := range all {
		if err := m.registry.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func gauge(name, help string, f func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
}

func counter(name, help string, f func() float64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, f)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// unary counts unary calls.
func (m *meters) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	m.started.WithLabelValues(info.FullMethod).Inc()
	begin := time.Now()
	resp, err := next(ctx, req)
	m.latency.WithLabelValues(info.FullMethod).Observe(time.Since(begin).Seconds())
	m.handled.WithLabelValues(info.FullMethod, status.Code(err).String()).Inc()
	return resp, err
}

// stream counts streams.
func (m *meters) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	m.started.WithLabelValues(info.FullMethod).Inc()
	err := next(srv, ss)
	m.handled.WithLabelValues(info.FullMethod, status.Code(err).String()).Inc()
	return err
}
