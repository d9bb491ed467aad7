// Package manifest renders the chart: values in, Kubernetes objects out. It owns
// how values from files and flags are put together, and the order of the objects;
// it refuses to know the cluster, certificates, and who applies what it makes. It
// is the only door to Helm's libraries.
package manifest
