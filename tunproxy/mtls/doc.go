// Package mtls is who this workload is and who its peers prove to be: the
// certificate with its key, the trust anchors, and TLS 1.3 between two sidecars
// as docs/design/0001 fixes it. It owns verification, session resumption and
// the record layer on an event loop; it refuses to know where certificates come
// from, what a connection carries and what its peer may do.
//
// A connection's road:
//
//  1. Client or Server takes an aio.Conn. A bounded number of goroutines run
//     handshakes; others wait their turn inside the same deadline.
//  2. During the handshake the loop moves bytes between the connection and the
//     goroutine's buffers.
//  3. Verification happens in both roles and for full and resumed handshakes
//     alike, against the anchors in force at that moment.
//  4. After it the goroutine is gone: crypto/tls runs on the loop, over a
//     net.Conn whose "nothing there yet" is an error that does not stick.
//
// Keys are made here and live in memory only; nothing in this package writes
// them anywhere.
package mtls
