// Package operations tests what operators of a mesh have done for them, and what they
// are told, in a real cluster: pods that are made again with their sidecar, and what
// the control plane says of ports. It has nothing but tests.
package operations
