// collector is the OpenTelemetry collector, of its own modules: the OTLP receiver,
// and an exporter that writes each span as a line of JSON on standard output. Its
// arguments are the address for OTLP over gRPC, and for how long each batch is
// made to wait.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/yamlprovider"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "collector: want ADDRESS WAIT")
		os.Exit(2)
	}
	wait, err := time.ParseDuration(os.Args[2])
	if err == nil {
		err = run(os.Args[1], wait)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "collector:", err)
		os.Exit(1)
	}
}

const config = `yaml:
receivers: {otlp: {protocols: {grpc: {endpoint: "%s"}}}}
exporters: {lines: {}}
service:
  telemetry: {metrics: {level: none}}
  pipelines: {traces: {receivers: [otlp], exporters: [lines]}}
`

func run(addr string, wait time.Duration) error {
	c, err := otelcol.NewCollector(otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "collector", Description: "collector of a test", Version: "1"},
		Factories: func() (otelcol.Factories, error) { return factories(wait) },
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			URIs:              []string{fmt.Sprintf(config, addr)},
			ProviderFactories: []confmap.ProviderFactory{yamlprovider.NewFactory()},
		}},
	})
	if err != nil {
		return err
	}
	return c.Run(context.Background())
}

func factories(wait time.Duration) (f otelcol.Factories, err error) {
	kind := component.MustNewType("lines")
	l := &lines{out: bufio.NewWriter(os.Stdout), wait: wait}
	f.Telemetry = otelconftelemetry.NewFactory()
	f.Receivers, err = otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory())
	if err != nil {
		return f, err
	}
	f.Exporters, err = otelcol.MakeFactoryMap[exporter.Factory](exporter.NewFactory(kind,
		func() component.Config { return &struct{}{} },
		exporter.WithTraces(func(context.Context, exporter.Settings, component.Config) (exporter.Traces, error) { return l, nil }, component.StabilityLevelStable)))
	return f, err
}

// lines writes spans.
type lines struct {
	component.StartFunc
	component.ShutdownFunc
	wait time.Duration

	mu  sync.Mutex
	out *bufio.Writer
}

// Capabilities implements exporter.Traces.
func (*lines) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

// ConsumeTraces implements exporter.Traces.
func (l *lines) ConsumeTraces(_ context.Context, all ptrace.Traces) error {
	time.Sleep(l.wait)
	l.mu.Lock()
	defer l.mu.Unlock()
	e := json.NewEncoder(l.out)
	for _, r := range all.ResourceSpans().All() {
		for _, scope := range r.ScopeSpans().All() {
			for _, s := range scope.Spans().All() {
				trace, id, parent := s.TraceID(), s.SpanID(), s.ParentSpanID()
				if err := e.Encode(map[string]any{
					"trace": hex.EncodeToString(trace[:]), "span": hex.EncodeToString(id[:]), "parent": hex.EncodeToString(parent[:]),
					"state": s.TraceState().AsRaw(), "name": s.Name(), "kind": s.Kind().String(), "status": s.Status().Code().String(),
					"start": s.StartTimestamp(), "end": s.EndTimestamp(), "flags": s.Flags(),
					"attributes": s.Attributes().AsRaw(), "resource": r.Resource().Attributes().AsRaw(), "scope": scope.Scope().Name(),
				}); err != nil {
					return err
				}
			}
		}
	}
	return l.out.Flush()
}
