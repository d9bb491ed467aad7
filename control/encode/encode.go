// Package encode lets one encoding of a message be sent on many gRPC streams. It
// owns a codec that passes bytes through, and refuses to know what they mean.
package encode

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Message is a protobuf message that is encoded already, in parts that are sent
// one after the other (a message in two parts is the message of their
// concatenation, as protobuf has it). Nobody may write to the parts any more.
type Message struct {
	Parts [][]byte
}

// Codec is protobuf, but for a *Message, which it sends as it is. Set it on a
// server with grpc.ForceServerCodecV2 and send with SendMsg.
type Codec struct {
	proto encoding.CodecV2
}

// NewCodec returns the codec.
func NewCodec() (*Codec, error) {
	c := encoding.GetCodecV2(proto.Name)
	if c == nil {
		return nil, fmt.Errorf("find gRPC codec %q: not there", proto.Name)
	}
	return &Codec{proto: c}, nil
}

// Name implements encoding.CodecV2.
func (c *Codec) Name() string { return proto.Name }

// Marshal implements encoding.CodecV2. It borrows the parts of a *Message.
func (c *Codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*Message)
	if !ok {
		return c.proto.Marshal(v)
	}
	out := make(mem.BufferSlice, 0, len(m.Parts))
	for _, p := range m.Parts {
		out = append(out, mem.SliceBuffer(p))
	}
	return out, nil
}

// Unmarshal implements encoding.CodecV2.
func (c *Codec) Unmarshal(data mem.BufferSlice, v any) error { return c.proto.Unmarshal(data, v) }
