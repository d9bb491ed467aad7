// Package votepb holds the sample application's own gRPC services: .proto files
// and the Go code generated from them.
package votepb

//go:generate go -C ../../../../api/gen run . -src ../../cmd/emojivoto/internal/votepb -out ../../cmd/emojivoto/internal/votepb
