// Package scale measures the control plane in front of many sidecars: a real API
// server with a thousand Services and ten thousand endpoints, the control plane as
// a process, and a thousand simulated sidecars. It owns the simulation and the
// figures; it refuses to know what traffic does with them. `make scale` runs it.
package scale
