package detect

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func TestDetect(t *testing.T) {
	long := strings.Repeat("a", Limit)
	for _, tt := range []struct {
		name, in string
		want     Kind
	}{
		{"nothing", "", NeedMore},
		{"zero byte", "\x00", Opaque},
		{"postgres startup", "\x00\x00\x00\x08\x04\xd2\x16\x2f", Opaque},
		{"redis array", "*", Opaque},
		{"digit", "1", Opaque},
		{"high byte", "\xff", Opaque},
		{"space", " GET / HTTP/1.1\r\n", Opaque},
		{"bare LF first", "\nGET / HTTP/1.1\r\n", Opaque},
		{"CR", "\r", NeedMore},
		{"CR and not LF", "\rG", Opaque},
		{"one empty line", "\r\n", NeedMore},
		{"empty line, then a request", "\r\nGET / HTTP/1.1\r\n", HTTP1},
		{"two empty lines", "\r\n\r\n", Opaque},
		{"one letter", "G", NeedMore},
		{"method", "GET", NeedMore},
		{"method and space", "GET ", NeedMore},
		{"target", "GET /index.html", NeedMore},
		{"target and space", "GET / ", NeedMore},
		{"version begun", "GET / HTTP", NeedMore},
		{"version without digit", "GET / HTTP/", NeedMore},
		{"version", "GET / HTTP/1", HTTP1},
		{"whole", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP1},
		{"HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", HTTP1},
		{"bare LF, refused by the parser", "GET / HTTP/1.1\n", HTTP1},
		{"a version that the parser refuses", "GET / HTTP/3.0\r\n", HTTP1},
		{"raw UTF-8 in the target", "GET /\xc3\xa4 HTTP/1.1", HTTP1},
		{"unknown method", "BREW /pot HTTP/1.1", HTTP1},
		{"method with dash", "M-SEARCH * HTTP/1.1", HTTP1},
		{"absolute form", "GET http://a/b HTTP/1.1", HTTP1},
		{"absolute form, partly", "GET http:/", NeedMore},
		{"absolute form, no authority", "GET http:x", Opaque},
		{"asterisk", "OPTIONS * HTTP/1.1", HTTP1},
		{"asterisk and more", "OPTIONS *x", Opaque},
		{"authority", "CONNECT a.b:443 HTTP/1.1", HTTP1},
		{"IPv6 authority", "CONNECT [::1]:443 HTTP/1.1", HTTP1},
		{"NATS", "CONNECT {\"verbose\":false}\r\n", Opaque},
		{"NATS at its brace", "CONNECT {", Opaque},
		{"redis inline", "GET key\r\n", Opaque},
		{"redis inline with a slash", "GET /key\r\n", Opaque},
		{"memcached", "get key1 key2\r\n", Opaque},
		{"ssh", "SSH-2.0-OpenSSH_9.2\r\n", Opaque},
		{"smtp", "EHLO there\r\n", Opaque},
		{"HTTP/0.9", "GET /\r\n", Opaque},
		{"two spaces", "GET  / HTTP/1.1", Opaque},
		{"third word is not the version", "GET / HTTQ", Opaque},
		{"RTSP", "DESCRIBE rtsp://a/b RTSP/1.0\r\n", Opaque},
		{"lower-case version", "GET / http/1.1\r\n", Opaque},
		{"control byte in the target", "GET /\x01", Opaque},
		{"33 letters", strings.Repeat("A", 33), Opaque},
		{"32 letters", strings.Repeat("A", 32), NeedMore},
		{"URL beyond the limit", "GET /" + long, HTTP1},
		{"URL just below the limit", ("GET /" + long)[:Limit-1], NeedMore},
		{"preface, one byte", "P", NeedMore},
		{"preface, up to the version", "PRI * HTTP/2", NeedMore},
		{"preface, enough of it", "PRI * HTTP/2.0", HTTP2},
		{"preface, whole", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP2},
		{"PRI as an HTTP/1 method", "PRI / HTTP/1.1\r\n", HTTP1},
		{"PRI as an HTTP/1 method, asterisk", "PRI * HTTP/1.1\r\n", HTTP1},
		{"TLS, one byte", "\x16", NeedMore},
		{"TLS, wrong version", "\x16\x02", Opaque},
		{"TLS, unknown minor version", "\x16\x03\x05", Opaque},
		{"TLS, empty record", "\x16\x03\x01\x00\x00", Opaque},
		{"TLS, record too long", "\x16\x03\x01\x40\x01", Opaque},
		{"TLS, record header", "\x16\x03\x01\x02\x00", NeedMore},
		{"TLS, ServerHello", "\x16\x03\x01\x02\x00\x02", Opaque},
		{"TLS, hello too short to be one", "\x16\x03\x01\x00\x04\x01\x00\x00\x04", Opaque},
		{"TLS, an alert between the fragments", "\x16\x03\x01\x00\x05\x01\x00\x01\x00\x03\x15", Opaque},
		{"TLS, hello beyond the limit", "\x16\x03\x01\x40\x00\x01\x01\x00\x00" + long, TLS},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Detect([]byte(tt.in))
			if got.Kind != tt.want {
				t.Errorf("Detect(%.60q) = %v, want %v", tt.in, got.Kind, tt.want)
			}
			if want := got.Kind == NeedMore && tt.in != "" && tt.in[0] == recordHandshake; got.Hello != want {
				t.Errorf("Detect(%.60q).Hello = %v", tt.in, got.Hello)
			}
		})
	}
}

// TestDetectByteByByte: no prefix of a decided stream may decide otherwise.
func TestDetectByteByByte(t *testing.T) {
	tlsHello := string(hello(t, "a.example", nil))
	for _, tt := range []struct {
		in   string
		want Kind
		at   int // length at which it must be decided
	}{
		{"GET /some/path?q=1 HTTP/1.1\r\nHost: a\r\n", HTTP1, len("GET /some/path?q=1 HTTP/1")},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP2, len("PRI * HTTP/2.0")},
		{"SSH-2.0-x\r\n", Opaque, len("SSH-2.0-x\r")},
		{"\x00\x01", Opaque, 1},
		{tlsHello, TLS, len(tlsHello)},
	} {
		for n := range len(tt.in) + 1 {
			want := NeedMore
			if n >= tt.at {
				want = tt.want
			}
			if got := Detect([]byte(tt.in[:n])).Kind; got != want {
				t.Fatalf("Detect(%q) = %v, want %v", tt.in[:n], got, want)
			}
		}
	}
}

func TestClientHello(t *testing.T) {
	for _, tt := range []struct {
		name, sni string
		alpn      []string
		want      string
	}{
		{"name and protocols", "Web.Prod.Example", []string{"tunmesh-http/1", "h2"}, "web.prod.example"},
		{"name only", "a.b", nil, "a.b"},
		{"protocols only", "", []string{"http/1.1"}, ""},
	} {
		b := hello(t, tt.sni, tt.alpn)
		for _, size := range []int{len(b), 1, 2, 3, 4, 5, 17, 100} {
			got := Detect(fragment(b, size))
			if got.Kind != TLS || got.SNI != tt.want || strings.Join(got.ALPN, " ") != strings.Join(tt.alpn, " ") {
				t.Errorf("%s, records of %d bytes: %+v", tt.name, size, got)
			}
		}
	}
	r := Detect(hello(t, "a", []string{"h2", "tunmesh-tcp/9"}))
	if !r.Offers(func(s string) bool { return strings.HasPrefix(s, "tunmesh-") }) || r.Offers(func(s string) bool { return s == "h3" }) {
		t.Errorf("Offers: %+v", r)
	}
}

func TestClientHelloNames(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"a.b", "a.b"}, {"A.B", "a.b"}, {"_dmarc.x", ""}, {"a_b", "a_b"}, {"a b", ""}, {"a\n", ""}, {".a", ""},
		{"", ""}, {strings.Repeat("a", 253), strings.Repeat("a", 253)}, {strings.Repeat("a", 254), ""}, {"\xff", ""},
	} {
		if got := hostName([]byte(tt.in)); got != tt.want {
			t.Errorf("hostName(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

// TestClientHelloMalformed breaks every byte of the lengths' structure: whatever
// comes out, it is decided and never a panic; and cutting the message while its
// length agrees is Opaque.
func TestClientHelloMalformed(t *testing.T) {
	b := hello(t, "a.example", []string{"h2"})
	body := b[recordHeader+handshakeHeader:]
	for n := 35; n < len(body); n++ {
		cut := append([]byte{recordHandshake, 3, 1, 0, 0, typeClientHello, 0, byte(n >> 8), byte(n)}, body[:n]...)
		size := n + handshakeHeader
		cut[3], cut[4] = byte(size>>8), byte(size)
		got := Detect(cut)
		if got.Kind == NeedMore {
			t.Fatalf("cut at %d: undecided", n)
		}
		if got.Kind == TLS && got.SNI != "" {
			t.Fatalf("cut at %d: %+v", n, got)
		}
	}
}

// hello is a ClientHello that crypto/tls makes.
func hello(t testing.TB, sni string, alpn []string) []byte {
	t.Helper()
	client, server := net.Pipe()
	done := make(chan []byte, 1)
	go func() {
		b := make([]byte, Limit)
		n, _ := server.Read(b)
		done <- b[:n]
		_ = server.Close()
	}()
	_ = client.SetDeadline(time.Now().Add(10 * time.Second))
	err := tls.Client(client, &tls.Config{ServerName: sni, NextProtos: alpn, InsecureSkipVerify: true}).Handshake()
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
		t.Fatalf("handshake: %v", err)
	}
	return <-done
}

// fragment puts the handshake message of one record into records of size bytes.
func fragment(b []byte, size int) []byte {
	message := b[recordHeader:]
	var out []byte
	for len(message) > 0 {
		n := min(size, len(message))
		out = append(out, recordHandshake, 3, 1, byte(n>>8), byte(n))
		out = append(out, message[:n]...)
		message = message[n:]
	}
	return out
}
