package exchange

import (
	"encoding/binary"
	"math/bits"
	"unsafe"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// A fold is a long field list in one piece of bytes without pointers: what an
// exchange keeps of a long head from one pass to the next. A list of 500 fields is
// 20 KB with a thousand pointers, which the garbage collector follows, beside
// everything that the sidecar does, for each of them that waits for its answer;
// folded it is a few KB and nothing to follow.
//
// Of each field: its name's length with the lowest bit for Sensitive, its value's
// length, both as varints, then name and value. Its strings are given out as they
// are: nobody writes to it again, and it is garbage when the last of them is.
type fold []byte

func foldOf(f []message.Field) fold {
	n := 0
	for i := range f {
		n += varintSize(len(f[i].Name)<<1) + varintSize(len(f[i].Value)) + len(f[i].Name) + len(f[i].Value)
	}
	b := make(fold, 0, n)
	for i := range f {
		name := uint64(len(f[i].Name)) << 1
		if f[i].Sensitive {
			name |= 1
		}
		b = binary.AppendUvarint(b, name)
		b = binary.AppendUvarint(b, uint64(len(f[i].Value)))
		b = append(b, f[i].Name...)
		b = append(b, f[i].Value...)
	}
	return b
}

// varintSize is how many bytes binary.AppendUvarint appends for n.
func varintSize(n int) int { return (bits.Len(uint(n|1)) + 6) / 7 } //nolint:gosec // a length

// count is the number of fields.
func (b fold) count() (n int) {
	for ; len(b) > 0; n++ {
		_, b = b.next()
	}
	return n
}

// next is the first field, whose strings are b's bytes, and the rest.
func (b fold) next() (message.Field, fold) {
	name, n := binary.Uvarint(b)
	value, k := binary.Uvarint(b[n:])
	b = b[n+k:]
	cut := int(name >> 1) //nolint:gosec // the lengths are those of strings
	end := cut + int(value)
	return message.Field{Name: text(b[:cut]), Value: text(b[cut:end]), Sensitive: name&1 != 0}, b[end:]
}

// text is b's bytes, not a copy.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// get is the first value of a field, as message.Head's is.
func (b fold) get(name string) (string, bool) {
	for len(b) > 0 {
		var f message.Field
		if f, b = b.next(); message.EqualFold(f.Name, name) {
			return f.Value, true
		}
	}
	return "", false
}

func (b fold) appendFields(dst []message.Field) []message.Field {
	for len(b) > 0 {
		var f message.Field
		f, b = b.next()
		dst = append(dst, f)
	}
	return dst
}

// fold puts the request's long list away; Request takes it out again.
func (x *Exchange) fold() {
	x.unfolded = false
	s := x.cfg.Spares
	if x.folded == nil && !x.over {
		x.folded = foldOf(x.req.Fields)
	}
	s.lists.put(x.req.Fields)
	x.req.Fields = nil
}

// unfold takes the request's list out until the end of the pass.
func (x *Exchange) unfold() {
	s := x.cfg.Spares
	x.req.Fields = x.folded.appendFields(s.lists.get(x.folded.count() + roomToAdd))
	s.foldLater(x)
}

// foldLater lets x keep its long list in this pass.
func (s *Spares) foldLater(x *Exchange) {
	x.unfolded = true
	s.atPassEnd(x.cfg.Loop)
	s.unfolded = append(s.unfolded, x)
}
