// Package tracing makes spans of the requests that pass a sidecar and hands them
// to a collector. It owns the propagation formats (W3C Trace Context, B3 in one
// field and in several, grpc-trace-bin), the decision which requests are traced,
// what a span says, and the bounded way from event loops to the collector, in
// OTLP over gRPC; it refuses to know how requests travel, and how the collector
// is reached.
//
//  1. Extract reads what a request brings, Tracer.Sample decides, once.
//  2. Who is not sampled costs nothing more: no allocation, no lock.
//  3. Tracer.Begin makes a span, Span.Inject the fields by which it is continued.
//  4. Tracer.End encodes the span into a buffer in memory, and the loop goes on.
//  5. One goroutine, Run, hands what has gathered to the collector. While that is
//     slow or away and the buffer is full, spans are dropped and counted.
package tracing
