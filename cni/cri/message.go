package cri

import (
	"encoding/binary"
	"errors"
)

// message is an encoded protobuf message.
type message []byte

// Wire types: how long a field's value is.
const (
	varint = 0
	fixed8 = 1
	length = 2
	fixed4 = 5
)

func (m message) text(n uint64, s string) message { return m.bytes(n, []byte(s)) }

func (m message) bytes(n uint64, b []byte) message {
	return append(binary.AppendUvarint(binary.AppendUvarint(m, n<<3|length), uint64(len(b))), b...)
}

func (m message) number(n, v uint64) message {
	return binary.AppendUvarint(binary.AppendUvarint(m, n<<3|varint), v)
}

// value of a field: one of the two.
type value struct {
	bytes  []byte
	number uint64
}

var errMessage = errors.New("it is no protobuf message")

// each calls f for every field, in order; fields of other types than value has
// are skipped.
func (m message) each(f func(field uint64, v value) error) error {
	for len(m) > 0 {
		tag, size := binary.Uvarint(m)
		if size <= 0 || tag>>3 == 0 {
			return errMessage
		}
		m = m[size:]
		v, size, ok := m.value(tag & 7)
		if !ok {
			return errMessage
		}
		m = m[size:]
		if kind := tag & 7; kind == length || kind == varint {
			if err := f(tag>>3, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// value reads one of a wire type, and says how long it was.
func (m message) value(kind uint64) (v value, size int, ok bool) {
	switch kind {
	case varint:
		v.number, size = binary.Uvarint(m)
		return v, size, size > 0
	case length:
		n, head := binary.Uvarint(m)
		if head <= 0 || n > uint64(len(m)-head) {
			return v, 0, false
		}
		v.bytes = m[head : head+int(n)]
		return v, head + int(n), true
	case fixed4:
		return v, 4, len(m) >= 4
	case fixed8:
		return v, 8, len(m) >= 8
	}
	return v, 0, false // groups, which nobody writes any more
}
