// Package wire is the messages of api/*.proto as plain structs, with their
// protobuf encoding, as far as a sidecar sends and receives them. It exists
// because google.golang.org/protobuf and the generated code cost a sidecar
// megabytes; only protowire, the encoding's primitives, is linked.
//
// Decoding copies what it keeps, ignores unknown fields, takes the last of a
// repeated scalar as the specification demands, and refuses everything that is
// not well-formed: malformed input is an error and never a partial message.
// What a message means, and whether its values make sense, its user decides.
package wire
