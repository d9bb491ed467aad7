package detect

import (
	"testing"
)

// FuzzDetect: a decision never changes when more bytes come, and below the limit
// is taken on the same byte whatever follows.
func FuzzDetect(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n"), uint8(3))
	f.Add([]byte("\r\nGET http://a/ HTTP/1.1\r\n"), uint8(9))
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), uint8(12))
	f.Add([]byte("CONNECT {}\r\n"), uint8(9))
	f.Add(hello(f, "a.example", []string{"h2"}), uint8(200))
	f.Fuzz(func(t *testing.T, b []byte, cut uint8) {
		whole := Detect(b)
		if len(b) >= Limit && whole.Kind == NeedMore {
			t.Fatal("undecided at the limit")
		}
		n := min(int(cut), len(b))
		part := Detect(b[:n])
		if part.Kind != NeedMore && part.Kind != whole.Kind {
			t.Fatalf("%q is %v, with more bytes %v", b[:n], part.Kind, whole.Kind)
		}
	})
}

// FuzzClientHello: parsing the same message in one record and in many gives the
// same answer, names are names, and tokens are bounded.
func FuzzClientHello(f *testing.F) {
	for _, alpn := range [][]string{nil, {"h2", "http/1.1"}} {
		f.Add(hello(f, "web.prod.sa.cluster.local", alpn)[recordHeader:], uint8(7))
	}
	f.Fuzz(func(t *testing.T, message []byte, size uint8) {
		if len(message) == 0 || len(message) > 2000 || size == 0 {
			return
		}
		one := Detect(fragment(append(make([]byte, recordHeader), message...), len(message)))
		many := Detect(fragment(append(make([]byte, recordHeader), message...), max(int(size), 2)))
		if one.Kind != many.Kind || one.SNI != many.SNI || len(one.ALPN) != len(many.ALPN) {
			t.Fatalf("one record: %+v; many: %+v", one, many)
		}
		if one.SNI != hostName([]byte(one.SNI)) || len(one.ALPN) > maxALPN {
			t.Fatalf("%+v", one)
		}
	})
}
