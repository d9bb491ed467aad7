// Package hpack is header compression for HTTP/2 (RFC 7541): a Decoder and an
// Encoder, each with its dynamic table. It owns the tables, Huffman coding and
// the bounds on them; it refuses to know frames, HTTP and what a field means.
//
// Neither allocates in steady state: strings are made once, when an entry
// enters a table or an Interner, and shared from then on.
package hpack
