package cri

import "testing"

// FuzzMessage: whatever a runtime says, it is read to its end or refused.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(message{}.text(1, "id").bytes(3, message{}.text(1, "name")).number(6, 1)))
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, raw []byte) {
		total := 0
		err := message(raw).each(func(n uint64, v value) error {
			if n < 1 {
				t.Fatalf("field %d", n)
			}
			total += len(v.bytes)
			return message(v.bytes).each(func(uint64, value) error { return nil })
		})
		if err == nil && total > len(raw) {
			t.Fatalf("%d bytes out of %d", total, len(raw))
		}
	})
}
