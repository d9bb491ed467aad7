// Package destination is the wire API that says what is behind an address: the
// watch that feeds a sidecar's router and balancer. destination.proto is the
// specification; the Go code is generated from it.
package destination
