// Package policy is the wire API that says what a workload accepts. policy.proto
// is the specification; the Go code is generated from it.
package policy
