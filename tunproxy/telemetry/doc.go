// Package telemetry counts what the sidecar does and prints it for Prometheus.
// It owns metric names, labels and the text format; it refuses to know who
// serves /metrics and how traffic flows. Names, labels and buckets are
// Linkerd's wherever the meaning is the same, so that its dashboards and
// people's alerts carry over; where not, HELP says what is meant.
//
// Labels are resolved once, when a connection or a target is made, to a handle
// (TCP, HTTP). What happens per request or per packet afterwards is atomic
// adds on the handle: no lock, no allocation, no map. Handles of equal labels
// share their counters, and are released when the connection or target goes.
//
// Memory is bounded: label sets are limited in number (what comes after shares
// one set, labelled overflow="true", and is itself counted), and sets that
// nobody holds retire after a while.
package telemetry
