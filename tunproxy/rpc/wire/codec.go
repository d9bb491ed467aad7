package wire

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// field is one decoded field. Bytes alias the input.
type field struct {
	num   protowire.Number
	typ   protowire.Type
	value uint64 // varint, fixed32, fixed64
	bytes []byte
}

var (
	errType = errors.New("wrong wire type")
	errUTF8 = errors.New("a string that is not UTF-8")
)

// each calls f for every field of a message.
func each(what string, b []byte, f func(field) error) error {
	for len(b) > 0 {
		var fd field
		n := 0
		if fd.num, fd.typ, n = protowire.ConsumeTag(b); n < 0 {
			return fmt.Errorf("decode %s: %w", what, protowire.ParseError(n))
		}
		if fd.num > protowire.MaxValidNumber {
			return fmt.Errorf("decode %s: field number %d", what, fd.num)
		}
		b = b[n:]
		switch fd.typ {
		case protowire.VarintType:
			fd.value, n = protowire.ConsumeVarint(b)
		case protowire.Fixed32Type:
			var v uint32
			v, n = protowire.ConsumeFixed32(b)
			fd.value = uint64(v)
		case protowire.Fixed64Type:
			fd.value, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			fd.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(fd.num, fd.typ, b) // groups, which nobody uses
		}
		if n < 0 {
			return fmt.Errorf("decode %s: field %d: %w", what, fd.num, protowire.ParseError(n))
		}
		b = b[n:]
		if err := f(fd); err != nil {
			return fmt.Errorf("decode %s: field %d: %w", what, fd.num, err)
		}
	}
	return nil
}

func (f field) str(to *string) error {
	var b []byte
	err := f.text(&b)
	*to = string(b)
	return err
}

// text is str without a copy: what is read aliases the input.
func (f field) text(to *[]byte) error {
	switch {
	case f.typ != protowire.BytesType:
		return errType
	case !utf8.Valid(f.bytes):
		return errUTF8
	}
	*to = f.bytes
	return nil
}

func (f field) strs(to *[]string) error {
	var s string
	if err := f.str(&s); err != nil {
		return err
	}
	*to = append(*to, s)
	return nil
}

func (f field) blob(to *[]byte) error {
	if f.typ != protowire.BytesType {
		return errType
	}
	*to = append([]byte{}, f.bytes...)
	return nil
}

func (f field) blobs(to *[][]byte) error {
	var b []byte
	if err := f.blob(&b); err != nil {
		return err
	}
	*to = append(*to, b)
	return nil
}

func (f field) u64(to *uint64) error {
	if f.typ != protowire.VarintType {
		return errType
	}
	*to = f.value
	return nil
}

// u32 also reads enums; protobuf cuts what is too large to 32 bits.
func (f field) u32(to *uint32) error {
	if f.typ != protowire.VarintType {
		return errType
	}
	*to = uint32(f.value & math.MaxUint32)
	return nil
}

// u32s reads one of a repeated field, or several packed.
func (f field) u32s(to *[]uint32) error {
	if f.typ == protowire.VarintType {
		*to = append(*to, uint32(f.value&math.MaxUint32))
		return nil
	}
	if f.typ != protowire.BytesType {
		return errType
	}
	for b := f.bytes; len(b) > 0; {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		*to = append(*to, uint32(v&math.MaxUint32))
		b = b[n:]
	}
	return nil
}

func (f field) float(to *float64) error {
	if f.typ != protowire.Fixed64Type {
		return errType
	}
	*to = math.Float64frombits(f.value)
	return nil
}

func (f field) i64(to *int64) error {
	var v uint64
	err := f.u64(&v)
	*to = int64(v) //nolint:gosec // two's complement on the wire
	return err
}

func (f field) boolean(to *bool) error {
	var v uint64
	err := f.u64(&v)
	*to = v != 0
	return err
}

// message decodes a nested message with d.
func (f field) message(d func([]byte) error) error {
	if f.typ != protowire.BytesType {
		return errType
	}
	return d(f.bytes)
}

// entry decodes an entry of a map<string, string>.
func (f field) entry(to *map[string]string) error {
	if f.typ != protowire.BytesType {
		return errType
	}
	var k, v string
	err := each("map entry", f.bytes, func(e field) error {
		switch e.num {
		case 1:
			return e.str(&k)
		case 2:
			return e.str(&v)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if *to == nil {
		*to = map[string]string{}
	}
	(*to)[k] = v
	return nil
}

// The appenders leave out zero values, as proto3 does.

func appendString(b []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	if !utf8.ValidString(s) { // an app's path or field: one must not break the stream
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

func appendBytes(b []byte, num protowire.Number, p []byte) []byte {
	if len(p) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), p)
}

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return appendPresent(b, num, v)
}

// appendPresent writes zero too: an optional field that is set.
func appendPresent(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

// appendMessage writes a nested message that is present, even if empty.
func appendMessage(b []byte, num protowire.Number, m interface{ Append(b []byte) []byte }) []byte {
	b = protowire.AppendTag(b, num, protowire.BytesType)
	at := len(b)
	b = m.Append(b)
	n := len(b) - at
	size := protowire.SizeVarint(uint64(n))
	b = append(b, make([]byte, size)...)
	copy(b[at+size:], b[at:at+n])
	protowire.AppendVarint(b[:at], uint64(n))
	return b
}

func appendMap(b []byte, num protowire.Number, m map[string]string) []byte {
	for k, v := range m {
		b = appendMessage(b, num, mapEntry{k, v})
	}
	return b
}

type mapEntry struct{ k, v string }

// Append implements the encoding of a map's entry.
func (e mapEntry) Append(b []byte) []byte { return appendString(appendString(b, 1, e.k), 2, e.v) }
