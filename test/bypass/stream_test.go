package bypass_test

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// flow is one direction of a TCP connection.
type flow struct{ from, to netip.AddrPort }

// flows puts the bytes of each direction of the connections between two groups
// of addresses together, as far as they were seen without a gap. Connections
// that were there before the capture are left out.
func flows(seen []packet, a, b []string) map[flow][]byte {
	between := func(x, y netip.Addr) bool {
		s, d := x.String(), y.String()
		return slices.Contains(a, s) && slices.Contains(b, d) || slices.Contains(b, s) && slices.Contains(a, d)
	}
	type half struct {
		first uint32 // sequence number of the first byte
		have  []bool
		data  []byte
	}
	halves := map[flow]*half{}
	for _, p := range seen {
		if p.proto != protoTCP || p.fragment || !between(p.src, p.dst) || p.at+20 > len(p.bytes) {
			continue
		}
		th := p.bytes[p.at:]
		f := flow{netip.AddrPortFrom(p.src, binary.BigEndian.Uint16(th)), netip.AddrPortFrom(p.dst, binary.BigEndian.Uint16(th[2:]))}
		seq := binary.BigEndian.Uint32(th[4:])
		h := halves[f]
		if th[13]&2 != 0 { // SYN
			if h == nil || h.first != seq+1 {
				halves[f] = &half{first: seq + 1}
			}
			continue
		}
		payload := th[min(int(th[12]>>4)*4, len(th)):]
		if h == nil || len(payload) == 0 || seq-h.first > 1<<24 {
			continue
		}
		at := int(seq - h.first)
		for len(h.data) < at+len(payload) {
			h.data, h.have = append(h.data, 0), append(h.have, false)
		}
		copy(h.data[at:], payload)
		for i := range payload {
			h.have[at+i] = true
		}
	}
	out := map[flow][]byte{}
	for f, h := range halves {
		n := slices.Index(h.have, false)
		if n < 0 {
			n = len(h.data)
		}
		if n > 0 {
			out[f] = h.data[:n]
		}
	}
	return out
}

// allTLS13 checks that each stream is TLS 1.3 from its first byte to its last:
// a hello, and then nothing but encrypted records (RFC 8446, section 5).
func allTLS13(streams map[flow][]byte) error {
	if len(streams) == 0 {
		return errors.New("no stream")
	}
	for f, data := range streams {
		if err := tls13(data); err != nil {
			return fmt.Errorf("%v to %v: %w", f.from, f.to, err)
		}
	}
	return nil
}

func tls13(b []byte) error {
	const changeCipherSpec, handshake, applicationData = 20, 22, 23
	for n := 0; len(b) >= 5; n++ {
		size := int(binary.BigEndian.Uint16(b[3:]))
		if b[1] != 3 || size == 0 || size > 1<<14+256 {
			return fmt.Errorf("record %d is none: % x", n, b[:5])
		}
		body := b[5:min(5+size, len(b))]
		switch {
		case n == 0:
			if b[0] != handshake || !hello13(body) {
				return fmt.Errorf("the first record is no hello of TLS 1.3: % .60x", b)
			}
		case b[0] == changeCipherSpec && size == 1, b[0] == applicationData:
		default:
			return fmt.Errorf("record %d has type %d", n, b[0])
		}
		b = b[5+len(body):]
	}
	return nil
}

// hello13 looks for TLS 1.3 in the supported_versions extension: the only version
// that a client offers, or the one that a server chose.
func hello13(b []byte) bool {
	const clientHello, serverHello, supportedVersions = 1, 2, 43
	if len(b) < 39 || b[0] != clientHello && b[0] != serverHello {
		return false
	}
	at := 38 + 1 + int(b[38]) // behind version, random and session id
	if b[0] == serverHello {
		at += 3 // cipher suite, compression
	} else {
		if len(b) < at+2 {
			return false
		}
		at += 2 + int(binary.BigEndian.Uint16(b[at:]))
		if len(b) < at+1 {
			return false
		}
		at += 1 + int(b[at])
	}
	for at += 2; at+4 <= len(b); {
		kind, n := binary.BigEndian.Uint16(b[at:]), int(binary.BigEndian.Uint16(b[at+2:]))
		v := b[at+4 : min(at+4+n, len(b))]
		if kind == supportedVersions {
			if b[0] == clientHello && len(v) > 0 {
				v = v[1:]
			}
			return len(v) == 2 && binary.BigEndian.Uint16(v) == tls.VersionTLS13
		}
		at += 4 + n
	}
	return false
}

func TestTLS13(t *testing.T) {
	hello := append([]byte{2, 0, 0, 46, 3, 3}, make([]byte, 32)...)
	hello = append(hello, 0, 0x13, 1, 0, 0, 6, 0, 43, 0, 2, 3, 4)
	record := func(kind byte, body []byte) []byte {
		return append([]byte{kind, 3, 3, byte(len(body) >> 8), byte(len(body))}, body...)
	}
	old := slices.Clone(hello)
	old[len(old)-1] = 3
	data, first := record(23, []byte("secret")), record(22, hello)
	for name, c := range map[string]struct {
		stream []byte
		good   bool
	}{
		"a hello and data":      {slices.Concat(first, record(20, []byte{1}), data), true},
		"cut off":               {slices.Concat(first, data[:7]), true},
		"TLS 1.2":               {slices.Concat(record(22, old), data), false},
		"no hello":              {data, false},
		"a second handshake":    {slices.Concat(first, record(22, hello)), false},
		"clear text":            {[]byte("GET / HTTP/1.1\r\n"), false},
		"clear text behind TLS": {slices.Concat(first, data, []byte("GET / HTTP/1.1\r\n")), false},
	} {
		if err := tls13(c.stream); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}
