// Package seam tests the wire API from both ends at once: the sidecar's own
// client against the whole control plane, in one process. It holds nothing but
// tests.
package seam
