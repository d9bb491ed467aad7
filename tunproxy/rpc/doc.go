// Package rpc is a gRPC client for one connection: unary calls, and streams in
// either or both directions. It owns HTTP/2 as far as a client of one server
// needs it, gRPC's framing and its status codes, and the liveness of the
// connection; it refuses to know what messages mean (rpc/wire does), how the
// connection was dialled and secured, and when to dial again.
//
// It exists because grpc-go with net/http costs a sidecar about 6 MB of
// resident memory, half of its budget.
//
//  1. Run owns a reader, a writer and, through them, the connection.
//  2. Start opens a stream. What arrives on it is delivered to its Handler on
//     the reader's goroutine, one message at a time: no goroutine per stream.
//  3. What is sent waits in one bounded buffer that the writer empties.
//  4. When the connection is over every stream ends with the same error, and
//     Run returns it.
package rpc
