package exchange

import "github.com/tunmesh/tunmesh/tunproxy/message"

// maxLists bounds, in bytes, the long field lists that a loop keeps.
const maxLists = 512 << 10

// fieldSize is what a field takes in a list.
const fieldSize = 40

// lists are long field lists that are used again. Heads of hundreds of fields are
// rare, but each is 20 KB of garbage, and who sends them sends many.
type lists struct {
	free [listSizes][][]message.Field
	size int // in bytes
}

const listSizes = 4

// listSize is how many fields the lists of a kind have room for: the last ones
// for any head of another sidecar and what is added to it.
func listSize(kind int) int { return [listSizes]int{128, 256, 544, 1120}[kind] }

// get is an empty list with room for n fields.
func (l *lists) get(n int) []message.Field {
	for kind := range listSizes {
		if n > listSize(kind) {
			continue
		}
		if k := len(l.free[kind]); k > 0 {
			f := l.free[kind][k-1]
			l.free[kind][k-1] = nil
			l.free[kind] = l.free[kind][:k-1]
			l.size -= cap(f) * fieldSize
			return f
		}
		return make([]message.Field, 0, listSize(kind))
	}
	return make([]message.Field, 0, n)
}

// put takes one that nobody looks at any more.
func (l *lists) put(f []message.Field) {
	if l.size+cap(f)*fieldSize > maxLists || cap(f) > listSize(listSizes-1) {
		return
	}
	for kind := listSizes - 1; kind >= 0; kind-- {
		if cap(f) >= listSize(kind) {
			clear(f[:cap(f)])
			l.free[kind] = append(l.free[kind], f[:0])
			l.size += cap(f) * fieldSize
			return
		}
	}
}

// copyFields copies f into dst's array, or into one with room for it and for what
// translators add.
func (s *Spares) copyFields(dst, f []message.Field) []message.Field {
	if n := len(f) + roomToAdd; s != nil && n > maxFields && cap(dst) < n {
		dst = s.lists.get(n)
	}
	return append(dst[:0], f...)
}

// roomToAdd is more than any translator adds to a head.
const roomToAdd = 8
