package cri

import (
	"google.golang.org/protobuf/encoding/protowire"
)

// message is an encoded protobuf message.
type message []byte

func (m message) text(n protowire.Number, s string) message { return m.bytes(n, []byte(s)) }

func (m message) bytes(n protowire.Number, b []byte) message {
	return protowire.AppendBytes(protowire.AppendTag(m, n, protowire.BytesType), b)
}

func (m message) number(n protowire.Number, v uint64) message {
	return protowire.AppendVarint(protowire.AppendTag(m, n, protowire.VarintType), v)
}

// value of a field: one of the two.
type value struct {
	bytes  []byte
	number uint64
}

// each calls f for every field, in order; fields of other types than value has
// are skipped.
func (m message) each(f func(protowire.Number, value) error) error {
	for len(m) > 0 {
		n, typ, size := protowire.ConsumeTag(m)
		if size < 0 {
			return protowire.ParseError(size)
		}
		m = m[size:]
		var v value
		switch typ {
		case protowire.BytesType:
			v.bytes, size = protowire.ConsumeBytes(m)
		case protowire.VarintType:
			v.number, size = protowire.ConsumeVarint(m)
		default:
			size = protowire.ConsumeFieldValue(n, typ, m)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		m = m[size:]
		if typ == protowire.BytesType || typ == protowire.VarintType {
			if err := f(n, v); err != nil {
				return err
			}
		}
	}
	return nil
}
