package hpack

// huffmanGroup is all codes of one length.
type huffmanGroup struct {
	bits, count uint8
	first       uint32
	at          uint8 // of its first symbol in huffmanSymbols
}

// huffmanSize is the length of s in Huffman code, in bytes.
func huffmanSize(s string) int {
	bits := 0
	for i := range len(s) {
		bits += int(huffmanLen[s[i]])
	}
	return (bits + 7) / 8
}

// appendHuffman appends s in Huffman code, padded with ones (section 5.2).
func appendHuffman(dst []byte, s string) []byte {
	var acc uint64 // its low n bits wait
	var n uint
	for i := range len(s) {
		l := uint(huffmanLen[s[i]])
		acc = acc<<l | uint64(huffmanCode[s[i]])
		n += l
		for n >= 8 {
			n -= 8
			dst = append(dst, byte(acc>>n))
		}
	}
	if n > 0 {
		dst = append(dst, byte(acc<<(8-n))|byte(0xff>>n))
	}
	return dst
}

// decodeHuffman appends what b says. Padding is at most 7 bits, all ones.
func decodeHuffman(dst, b []byte) ([]byte, error) {
	var acc uint64 // its low n bits are unread
	var n uint
	for {
		for n <= 56 && len(b) > 0 {
			acc = acc<<8 | uint64(b[0])
			n += 8
			b = b[1:]
		}
		if n < 8 {
			break
		}
		if e := huffmanShort[byte(acc>>(n-8))]; e != 0 {
			dst = append(dst, byte(e>>8))
			n -= uint(e & 0xff)
			continue
		}
		sym, l := longCode(acc, n)
		if l == 0 {
			return dst, ErrHuffman
		}
		dst = append(dst, sym)
		n -= l
	}
	// Fewer than 8 bits are left: short codes, then ones.
	for n > 0 {
		rest := byte(acc<<(8-n)) | byte(0xff>>n) // as if padded on
		e := huffmanShort[rest]
		if l := uint(e & 0xff); e != 0 && l <= n {
			dst = append(dst, byte(e>>8))
			n -= l
			continue
		}
		if rest != 0xff {
			return dst, ErrHuffman
		}
		break
	}
	return dst, nil
}

// longCode finds the code of more than 8 bits that the low n bits of acc begin
// with; length 0: none.
func longCode(acc uint64, n uint) (sym byte, length uint) {
	for i := range huffmanGroups {
		g := &huffmanGroups[i]
		l := uint(g.bits)
		if l > n {
			break
		}
		code := uint32(acc>>(n-l)) & (1<<l - 1)
		if d := code - g.first; code >= g.first && d < uint32(g.count) {
			return huffmanSymbols[uint32(g.at)+d], l
		}
	}
	return 0, 0
}
