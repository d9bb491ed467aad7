package unary

import "testing"

// FuzzMessage: whatever a server says, it is read to its end or refused.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(Message{}.Text(1, "id").Bytes(3, Message{}.Text(1, "name")).Number(6, 1)))
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, raw []byte) {
		total := 0
		err := Message(raw).Each(func(n uint64, v Value) error {
			if n < 1 {
				t.Fatalf("field %d", n)
			}
			total += len(v.Bytes)
			return Message(v.Bytes).Each(func(uint64, Value) error { return nil })
		})
		if err == nil && total > len(raw) {
			t.Fatalf("%d bytes out of %d", total, len(raw))
		}
	})
}
