// Package lifecycle holds the tests of the local runtime as people use it: a mesh
// comes up, runs pods as a kubelet would, and leaves the machine as it was,
// however it ends.
package lifecycle
