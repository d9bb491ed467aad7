// Package plugin is the CNI plugin of the mesh, to be the last of a chain. It
// owns the CNI conversation, the decision which pods are meshed, and one state
// file a pod; how a pod's network is made is podnet's, who gets its queues is
// the agent's (cni/broker), reached through Agent.
//
// ADD:
//
//  1. The pod's annotations, handed over by the runtime, say whether the pod was
//     injected. If not, prevResult is printed as it came and nothing is touched.
//  2. The interface that the chain made is described, and the description
//     written to the state file: from here on DEL can undo whatever is there.
//  3. podnet makes the network, the agent opens the queues.
//  4. prevResult is printed, with the uplink's interface added.
//
// What fails undoes all before it.
package plugin
