// Package repair has pods made again that should be meshed and are not: those that
// were made while the injector did not answer, and those whose network was set up
// outside of the node's chain. It owns which pod is evicted and when, and refuses
// to know how such pods are found and how one is evicted.
//
// One pod a second at most, the one that has waited longest. Not evicted is a pod
//
//   - that nobody would make again, or that would come back as it is: while the
//     injector does not answer, or where it has said that the pod can't have one;
//   - on a node whose agent is not ready;
//   - of a Job, while it runs: its work would be lost;
//   - of an owner that rests, because a budget does not let a pod of it go, or
//     because the last one that was evicted came back the same. It rests longer
//     each time.
package repair
