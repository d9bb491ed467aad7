package datagram

import "strconv"

// message is what is read of a DNS message (RFC 1035, section 4): its header and
// its only question.
type message struct {
	id       uint16
	response bool
	rcode    uint8
	answers  uint16
	name     string // lower case, without the last dot; "." for the root
	kind     uint16
}

const (
	headerLen = 12
	maxName   = 255 // of a name, in bytes (RFC 1035, section 2.3.4)
)

// parse reads a message whose end may have been cut off. ok is false for what is
// no query or its response, or has not exactly one question.
func parse(b []byte) (m message, ok bool) {
	if len(b) < headerLen || b[2]&0x78 != 0 || b[4] != 0 || b[5] != 1 { // opcode, QDCOUNT
		return m, false
	}
	m.id = uint16(b[0])<<8 | uint16(b[1])
	m.response = b[2]&0x80 != 0
	m.rcode = b[3] & 0x0f
	m.answers = uint16(b[6])<<8 | uint16(b[7])
	name := make([]byte, 0, maxName)
	i := headerLen
	for {
		if i >= len(b) {
			return m, false
		}
		n := int(b[i])
		i++
		if n == 0 {
			break
		}
		// A question is the first name: it has nothing to point to.
		if n > 63 || i+n > len(b) || len(name)+n+1 > maxName {
			return m, false
		}
		if len(name) > 0 {
			name = append(name, '.')
		}
		for _, c := range b[i : i+n] {
			if c >= 'A' && c <= 'Z' {
				c += 'a' - 'A'
			}
			name = append(name, c)
		}
		i += n
	}
	if i+4 > len(b) {
		return m, false
	}
	m.kind = uint16(b[i])<<8 | uint16(b[i+1])
	if m.name = string(name); m.name == "" {
		m.name = "."
	}
	return m, true
}

// typeName is a type's mnemonic, or TYPE and its number (RFC 3597).
func typeName(t uint16) string {
	switch t {
	case 1:
		return "A"
	case 2:
		return "NS"
	case 5:
		return "CNAME"
	case 6:
		return "SOA"
	case 12:
		return "PTR"
	case 15:
		return "MX"
	case 16:
		return "TXT"
	case 28:
		return "AAAA"
	case 33:
		return "SRV"
	case 64:
		return "SVCB"
	case 65:
		return "HTTPS"
	case 255:
		return "ANY"
	}
	return "TYPE" + strconv.Itoa(int(t))
}
