// Package kube is the Kubernetes API as a source of the catalog, and as the
// judge of tokens and the keeper of the few objects that the control plane lives
// from. It owns the client, the watches, and what is stripped at the door. It
// refuses to know what is made of the objects (control/catalog), of tokens
// (control/identity) and of keys (control/identity, control/admission).
//
// The flow:
//
//  1. Each kind of object has a reflector: list, then watch, again from where it
//     was when the API server was away. There is no cache of the API's objects:
//     an object is stripped, turned into the catalog's own and forgotten.
//  2. What differs from what the catalog was told goes into the batch, where the
//     last word about an object replaces those before it.
//  3. Shortly after the first of them the batch is applied, as one.
//
// While the API server is away nothing happens to the catalog: the last state
// stays.
package kube
