package tracing

import (
	"math"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// OTLP's messages, in protobuf, as far as spans need them. The numbers are those of
// opentelemetry/proto/trace/v1 and of what it imports; tests compare with the
// generated code.

// maxText bounds what a client can have written of one of its fields, in bytes.
const maxText = 2048

// text is s as protobuf takes it: of bounded length, and UTF-8.
func text(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return s
}

func appendText(b []byte, num protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

func appendRaw(b []byte, num protowire.Number, p []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), p)
}

func appendNumber(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func appendFixed(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, num, protowire.Fixed64Type), v)
}

// nest writes a message whose content follows; end gives it its length. There is
// room for lengths below 2^21: three bytes, padded as a varint may be.
func nest(b []byte, num protowire.Number) (out []byte, at int) {
	b = protowire.AppendTag(b, num, protowire.BytesType)
	return append(b, 0x80, 0x80, 0), len(b)
}

func end(b []byte, at int) {
	n := len(b) - at - 3
	b[at], b[at+1], b[at+2] = byte(n)|0x80, byte(n>>7)|0x80, byte(n>>14)
}

// attribute is a KeyValue with a string.
func attribute(b []byte, num protowire.Number, key, value string) []byte {
	value = text(value)
	size := sized(len(value))
	b = protowire.AppendTag(b, num, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(sized(len(key))+sized(size)))
	b = appendText(b, 1, key)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	return appendText(b, 1, value)
}

// number is a KeyValue with an integer.
func number(b []byte, num protowire.Number, key string, value int64) []byte {
	v := uint64(value) //nolint:gosec // two's complement on the wire
	size := 1 + protowire.SizeVarint(v)
	b = protowire.AppendTag(b, num, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(sized(len(key))+sized(size)))
	b = appendText(b, 1, key)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	return appendNumber(b, 3, v)
}

// sized is the length of a field of n bytes whose number is below 16.
func sized(n int) int { return 1 + protowire.SizeBytes(n) }

// schema is the version of the semantic conventions that spans follow: the first
// in which those of RPC have their lasting names.
const schema = "https://opentelemetry.io/schemas/1.39.0"

// request is an ExportTraceServiceRequest with the spans of one resource.
func request(dst []byte, resource []Attribute, version string, spans []byte) []byte {
	var of, scope []byte
	for _, a := range resource {
		of = attribute(of, 1, text(a.Key), a.Value)
	}
	scope = appendText(scope, 1, "tunmesh")
	scope = appendText(scope, 2, text(version))
	inner := sized(len(scope)) + len(spans) + sized(len(schema))
	outer := sized(len(of)) + sized(inner)
	dst = protowire.AppendTag(dst, 1, protowire.BytesType) // resource_spans
	dst = protowire.AppendVarint(dst, uint64(outer))
	dst = appendRaw(dst, 1, of)
	dst = protowire.AppendTag(dst, 2, protowire.BytesType) // scope_spans
	dst = protowire.AppendVarint(dst, uint64(inner))
	dst = appendRaw(dst, 1, scope)
	dst = append(dst, spans...)
	return appendText(dst, 3, schema)
}

// rejected reads how many spans the collector says that it did not take; an answer
// that is malformed says nothing.
func rejected(answer []byte) (n uint64, why string) {
	partial := field(answer, 1)
	for b := partial; len(b) > 0; {
		num, typ, size := protowire.ConsumeTag(b)
		if size < 0 {
			return 0, ""
		}
		b = b[size:]
		switch {
		case num == 1 && typ == protowire.VarintType:
			n, size = protowire.ConsumeVarint(b)
		case num == 2 && typ == protowire.BytesType:
			var s []byte
			s, size = protowire.ConsumeBytes(b)
			why = text(string(s))
		default:
			size = protowire.ConsumeFieldValue(num, typ, b)
		}
		if size < 0 {
			return 0, ""
		}
		b = b[size:]
	}
	if n > math.MaxInt64 {
		n = 0
	}
	return n, why
}

// field is the last of a message's fields with that number that holds bytes.
func field(b []byte, want protowire.Number) (found []byte) {
	for len(b) > 0 {
		num, typ, size := protowire.ConsumeTag(b)
		if size < 0 {
			return nil
		}
		b = b[size:]
		if num == want && typ == protowire.BytesType {
			found, size = protowire.ConsumeBytes(b)
		} else {
			size = protowire.ConsumeFieldValue(num, typ, b)
		}
		if size < 0 {
			return nil
		}
		b = b[size:]
	}
	return found
}
