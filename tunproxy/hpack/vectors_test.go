package hpack

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

type field struct {
	name, value string
	sensitive   bool
}

func plain(string, string) uint8 { return 0 }

func newDecoder() *Decoder { return NewDecoder(NewInterner(), NewClassifier(plain)) }

func decode(d *Decoder, block []byte, maxList int) (fields []field, err error) {
	err = d.Decode(block, maxList, func(name, value string, _ uint8, sensitive bool) {
		fields = append(fields, field{name, value, sensitive})
	})
	return fields, err
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func list(kv ...string) (fields []field) {
	for i := 0; i < len(kv); i += 2 {
		fields = append(fields, field{name: kv[i], value: kv[i+1]})
	}
	return fields
}

func equal(a, b []field) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// TestLiterals decodes RFC 7541, appendix C.2.
func TestLiterals(t *testing.T) {
	for _, c := range []struct {
		block string
		want  field
		size  int // of the table afterwards
	}{
		{"400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", field{name: "custom-key", value: "custom-header"}, 55},
		{"040c 2f73 616d 706c 652f 7061 7468", field{name: ":path", value: "/sample/path"}, 0},
		{"1008 7061 7373 776f 7264 0673 6563 7265 74", field{"password", "secret", true}, 0},
		{"82", field{name: ":method", value: "GET"}, 0},
	} {
		d := newDecoder()
		got, err := decode(d, unhex(t, c.block), 1000)
		if err != nil || !equal(got, []field{c.want}) || d.table.size != c.size {
			t.Errorf("%s: %v, %v, table %d", c.block, got, err, d.table.size)
		}
	}
}

// TestSequences decodes and encodes RFC 7541, appendices C.3 to C.6.
func TestSequences(t *testing.T) {
	requests := [][]field{
		list(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "www.example.com"),
		list(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "www.example.com", "cache-control", "no-cache"),
		list(":method", "GET", ":scheme", "https", ":path", "/index.html", ":authority", "www.example.com", "custom-key", "custom-value"),
	}
	responses := [][]field{
		list(":status", "302", "cache-control", "private", "date", "Mon, 21 Oct 2013 20:13:21 GMT", "location", "https://www.example.com"),
		list(":status", "307", "cache-control", "private", "date", "Mon, 21 Oct 2013 20:13:21 GMT", "location", "https://www.example.com"),
		list(":status", "200", "cache-control", "private", "date", "Mon, 21 Oct 2013 20:13:22 GMT", "location", "https://www.example.com",
			"content-encoding", "gzip", "set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
	}
	for _, c := range []struct {
		name    string
		table   int
		encodes bool // appendices C.3 and C.5 don't use Huffman code, we do
		fields  [][]field
		blocks  []string
		sizes   []int
	}{
		{"C.3", 4096, false, requests, []string{
			"8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
			"8286 84be 5808 6e6f 2d63 6163 6865",
			"8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
		}, []int{57, 110, 164}},
		{"C.4", 4096, true, requests, []string{
			"8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
			"8286 84be 5886 a8eb 1064 9cbf",
			"8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
		}, []int{57, 110, 164}},
		{"C.5", 256, false, responses, []string{
			"4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
			"4803 3330 37c1 c0bf",
			"88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
		}, []int{222, 222, 215}},
		{"C.6", 256, true, responses, []string{
			"4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
			"4883 640e ffc1 c0bf",
			"88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
		}, []int{222, 222, 215}},
	} {
		d, e := newDecoder(), NewEncoder(c.table)
		d.table.max = c.table
		e.lowest = -1 // the examples suppose that the size was agreed on before
		for i, want := range c.fields {
			block := unhex(t, c.blocks[i])
			got, err := decode(d, block, 10000)
			if err != nil || !equal(got, want) || d.table.size != c.sizes[i] {
				t.Errorf("%s.%d: %v, %v, table %d", c.name, i+1, got, err, d.table.size)
			}
			if !c.encodes {
				continue
			}
			out := e.Begin(nil)
			for _, f := range want {
				out = e.Append(out, f.name, f.value, Always)
			}
			if c.name == "C.6" && i == 1 { // 307 is as long in Huffman code: we don't bother
				block = unhex(t, "4803 3330 37c1 c0bf")
			}
			if !bytes.Equal(out, block) || e.table.size != c.sizes[i] {
				t.Errorf("%s.%d encodes to %x, table %d", c.name, i+1, out, e.table.size)
			}
		}
	}
}
