package exchange

import (
	"sync"
	"unsafe"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// lists are long field lists that are used again. Heads of hundreds of fields are
// rare, but each is 20 KB of garbage, and who sends them sends many. The collector
// takes those that nobody needed for a while.
type lists struct {
	kinds [listSizes]sync.Pool // *message.Field: the first of as many as listSize says
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
		if first, ok := l.kinds[kind].Get().(*message.Field); ok {
			return unsafe.Slice(first, listSize(kind))[:0]
		}
		return make([]message.Field, 0, listSize(kind))
	}
	return make([]message.Field, 0, n)
}

// put takes one that nobody looks at any more.
func (l *lists) put(f []message.Field) {
	for kind := range listSizes {
		if cap(f) == listSize(kind) {
			clear(f[:cap(f)])
			l.kinds[kind].Put(unsafe.SliceData(f))
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
