package pcapng

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"time"
)

// blocks reads a file as the format says, and fails on what is not whole.
func blocks(t *testing.T, b []byte) (list []string) {
	t.Helper()
	for len(b) > 0 {
		if len(b) < blockFrame {
			t.Fatalf("%d bytes are left", len(b))
		}
		n := binary.LittleEndian.Uint32(b[4:])
		if n%4 != 0 || int(n) > len(b) || binary.LittleEndian.Uint32(b[n-4:]) != n {
			t.Fatalf("a block of %d bytes, of %d", n, len(b))
		}
		body := b[8 : n-4]
		kind := binary.LittleEndian.Uint32(b)
		fixed := map[uint32]int{blockSection: 16, blockInterface: 8, blockStats: 12}[kind]
		text := fmt.Sprintf("%x", kind)
		if kind == blockPacket {
			size := int(binary.LittleEndian.Uint32(body[12:]))
			text += fmt.Sprintf(" if%d %q of %d", binary.LittleEndian.Uint32(body), body[20:20+size], binary.LittleEndian.Uint32(body[16:]))
			fixed = 20 + (size+3)/4*4
		}
		for o := body[fixed:]; ; {
			code, size := binary.LittleEndian.Uint16(o), int(binary.LittleEndian.Uint16(o[2:]))
			if code == 0 {
				if len(o) != 4 {
					t.Fatalf("%d bytes after the last option", len(o)-4)
				}
				break
			}
			text += fmt.Sprintf(" %d=%q", code, o[4:4+size])
			o = o[4+(size+3)/4*4:]
		}
		list = append(list, text)
		b = b[n:]
	}
	return list
}

func TestWriter(t *testing.T) {
	var b bytes.Buffer
	w, err := NewWriter(&b, "meshctl v1", "a/web-1", "2 connections are older")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1, 2)
	for _, err := range []error{
		w.Packet(App, at, false, []byte("abcde"), 9, ""), w.Packet(Wire, at, true, []byte("abcd"), 4, "old"), w.Lost(Wire, at, 3),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		`a0d0d0a 1="2 connections are older" 2="a/web-1" 4="meshctl v1"`,
		`1 2="app" 3="decrypted: what the app of a/web-1 sends and gets" 9="\t"`,
		`1 2="wire" 3="what is on the network: mTLS between sidecars" 9="\t"`,
		`6 if0 "abcde" of 9 2="\x01\x00\x00\x00"`,
		`6 if1 "abcd" of 4 1="old" 2="\x02\x00\x00\x00"`,
		`5 5="\x03\x00\x00\x00\x00\x00\x00\x00"`,
	}
	got := blocks(t, b.Bytes())
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			t.Errorf("block %d:\n%v, want\n%s", i, got[min(i, len(got)-1)], want[i])
		}
	}
}
