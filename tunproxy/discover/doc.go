// Package discover is the sidecar's view of the control plane: what is behind
// an address, what this pod accepts, which trust anchors hold, and the pod's own
// certificate. It owns the one connection to the control plane, its streams and
// the last good state of each; it refuses to know traffic, balancing and how
// the connection is dialled.
//
//  1. Run dials, proves itself (without a certificate it calls Certify first,
//     on a connection of its own), and opens the streams: trust, policy, and one
//     for each target in use.
//  2. Lookup answers from the cached snapshot at once. The first question about
//     a target starts its stream and waits, bounded, for its first message.
//  3. An update is taken whole or not at all. One that is malformed, or does not
//     follow its predecessor, ends its stream, which begins again with the whole
//     state; the last good snapshot stays.
//  4. When the connection ends, everything stays as it was, and Run dials again
//     with growing, jittered pauses.
//  5. A target nobody asks about for a while is forgotten.
//
// "No answer yet" is never an answer: Lookup then fails, and its caller refuses.
package discover
