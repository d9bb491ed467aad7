// Package tap is the wire API that carries requests, as they pass, from sidecars
// to the control plane. tap.proto is the specification; the Go code is generated
// from it.
package tap
