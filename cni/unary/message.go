package unary

import (
	"encoding/binary"
	"errors"
)

// Message is an encoded protobuf message.
type Message []byte

// Wire types: how long a field's value is.
const (
	varint = 0
	fixed8 = 1
	length = 2
	fixed4 = 5
)

// Text is the message with one more field, a string.
func (m Message) Text(n uint64, s string) Message { return m.Bytes(n, []byte(s)) }

// Bytes is the message with one more field: bytes, or a message.
func (m Message) Bytes(n uint64, b []byte) Message {
	return append(binary.AppendUvarint(binary.AppendUvarint(m, n<<3|length), uint64(len(b))), b...)
}

// Number is the message with one more field, a number.
func (m Message) Number(n, v uint64) Message {
	return binary.AppendUvarint(binary.AppendUvarint(m, n<<3|varint), v)
}

// Value of a field: one of the two.
type Value struct {
	Bytes  []byte // borrowed from the message
	Number uint64
}

var errMessage = errors.New("it is no protobuf message")

// Each calls f for every field, in order; fields of other types than Value has
// are skipped.
func (m Message) Each(f func(field uint64, v Value) error) error {
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
func (m Message) value(kind uint64) (v Value, size int, ok bool) {
	switch kind {
	case varint:
		v.Number, size = binary.Uvarint(m)
		return v, size, size > 0
	case length:
		n, head := binary.Uvarint(m)
		if head <= 0 || n > uint64(len(m)-head) {
			return v, 0, false
		}
		v.Bytes = m[head : head+int(n)]
		return v, head + int(n), true
	case fixed4:
		return v, 4, len(m) >= 4
	case fixed8:
		return v, 8, len(m) >= 8
	}
	return v, 0, false // groups, which nobody writes any more
}
