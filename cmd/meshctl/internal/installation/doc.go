// Package installation is what meshctl knows of a mesh in a cluster: what was
// installed with which values and certificates, which objects are its, and which
// pods have its sidecar. It reads, and makes what is to be applied; it refuses to
// change the cluster, and to know flags and terminals.
package installation
