// Package identity is the wire API by which workloads get certificates and trust
// anchors. identity.proto is the specification; the Go code is generated from it.
package identity
