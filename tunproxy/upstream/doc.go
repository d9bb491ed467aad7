// Package upstream makes and keeps connections to endpoints: to other pods on
// the wire side, to the pod's own app on the app side. It owns dialling, the
// handshake in front of HTTP, pooling, and the wait for a free stream; it
// refuses to know which endpoint is a good one (balance) and what a request is
// for (exchange).
//
//  1. A Dialer makes one byte connection: TCP, and mTLS where the endpoint has an
//     identity. There is no way to leave the identity out by mistake: it is part
//     of the Endpoint.
//  2. A Pool, one for each loop, holds a Group for each endpoint in use. HTTP/2
//     groups keep one connection and share it; HTTP/1 groups keep as many as
//     there are exchanges at once.
//  3. Group.Open gives a stream at once where a connection has room. Otherwise
//     Group.Wait queues, and a connection is dialled. Both queues are bounded.
//  4. A shared connection that has become old is replaced by a new one, which is
//     there before the old one takes no more streams.
//  5. A group that nobody holds any more drains: streams under way finish.
//
// Everything runs on the pool's loop.
package upstream
