// Package h1 speaks HTTP/1.0 and HTTP/1.1 (RFC 9112) over an aio.Conn, as server
// and as client, and shows each request with its response as a message.Stream.
// It owns framing, connection reuse and the bounds on what a peer may send; it
// refuses to know routing, policy, translation to HTTP/2 and who joins streams.
//
// The road of a request through a Server:
//
//  1. Bytes are read into memory that all connections of a loop share (Buffers).
//     A connection keeps bytes of its own only while a head is incomplete or a
//     receiver is slow, so that an idle connection costs a few hundred bytes.
//  2. A whole head is copied once into a string, of which the Head's strings are
//     parts, and parsed strictly: whatever two parsers could read differently is
//     refused with 400 and a closed connection, and never forwarded.
//  3. The body is decoded in place and delivered piece by piece, at most
//     Config.Window bytes ahead of Consumed.
//  4. What is sent gathers in one buffer and is written once per pass.
//  5. The next request is parsed when both directions of this one are over:
//     pipelined requests are served in order, one at a time.
//
// Framing is decided here alone. SendHead ignores Connection and the fields it
// nominates, Keep-Alive and Proxy-Connection among Fields, and writes Host from
// Head.Authority, Content-Length and Transfer-Encoding from Head.ContentLength (in
// the place and spelling in which they were received), so that what leaves is
// always one message whose end every parser finds at the same byte.
//
// A request with Upgrade, and CONNECT, keeps its direction open: Head has end
// false. After 101, or 2xx to CONNECT, both directions are raw bytes, and end
// means half-close. After any other response an empty Data with end follows, and
// the connection goes on (CONNECT: closes). An upgrade to HTTP/2 (h2c) and one
// that comes with a body are served as if not asked for.
package h1
