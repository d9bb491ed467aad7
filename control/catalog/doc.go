// Package catalog is what the cluster is: namespaces, service accounts,
// services, workloads and pods, and for each address somebody asks about, what
// is behind it. It owns the rules that turn the one into the other, and refuses
// to know where objects come from (control/files, control/kube), how a target
// travels (control/destination), and what time it is: it reads nothing, starts
// no goroutine, and its answers depend on the applied changes alone.
//
// The flow:
//
//  1. A source makes Changes out of its objects and calls Apply, and Sync once
//     it has told everything it found at its start.
//  2. Apply updates indexes and remembers which addresses and services that
//     touches; only watched targets among those are computed again.
//  3. A target that came out different is swapped for the new snapshot, and each
//     of its watchers gets a nudge in a channel of one slot: a watcher that is
//     slow finds the latest snapshot, never a queue, and delays nobody.
//
// Snapshots and objects are immutable: whoever holds one may keep it, and nobody
// may write to it.
package catalog
