// Package files is the cluster as a folder of ordinary Kubernetes manifests. It
// owns strict reading of manifests (Parse), the check that they hang together
// (Check), and the Source that watches folders and tells the catalog. It refuses
// to know how pods are run, and it defines no format of its own: every object is
// a Kubernetes one, and the same file works with kubectl.
//
// Strict means: an unknown kind, apiVersion or field is an error that names file,
// document and path; kinds that are well known but mean nothing here are left
// out and named in one warning.
package files
