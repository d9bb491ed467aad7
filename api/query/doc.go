// Package query is the wire API of what people ask: stat, tap, endpoints, health.
// query.proto is the specification; the Go code is generated from it.
package query
