// Package conformance holds what HTTP must be through a pair of sidecars: other
// people's conformance suites (h2spec, gRPC's interoperability tests,
// WebSocket's), real clients and servers, and bytes compared at both ends. It
// knows the programs only from outside; sockets are made in the pods' network
// namespaces.
package conformance
