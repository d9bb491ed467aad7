package cri

import (
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// FuzzMessage: whatever a runtime says, it is read to its end or refused.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(message{}.text(1, "id").bytes(3, message{}.text(1, "name")).number(6, 1)))
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, raw []byte) {
		length := 0
		err := message(raw).each(func(n protowire.Number, v value) error {
			if n < 1 {
				t.Fatalf("field %d", n)
			}
			length += len(v.bytes)
			return message(v.bytes).each(func(protowire.Number, value) error { return nil })
		})
		if err == nil && length > len(raw) {
			t.Fatalf("%d bytes out of %d", length, len(raw))
		}
	})
}
