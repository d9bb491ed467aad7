package h2

// table finds open streams by identifier: open addressing with linear probing,
// because a Go map allocates now and then when entries keep coming and going.
type table struct {
	slots []*stream // power of two long, at most 3/4 full
	n     int
	// moved is how many are not in their own slot. Nearly always there are none:
	// taking one out then hides no other.
	moved int
}

const minTable = 8

func (t *table) slot(id uint32) int {
	// Identifiers are odd and consecutive: half of them is a perfect hash.
	return int(id>>1) & (len(t.slots) - 1)
}

func (t *table) get(id uint32) *stream {
	if t.n == 0 {
		return nil
	}
	for i := t.slot(id); ; i = (i + 1) & (len(t.slots) - 1) {
		if s := t.slots[i]; s == nil || s.id == id {
			return s
		}
	}
}

// add puts s, whose identifier is not in the table.
func (t *table) add(s *stream) {
	if 4*(t.n+1) > 3*len(t.slots) {
		old := t.slots
		t.slots, t.moved = make([]*stream, max(minTable, 2*len(old))), 0
		for _, o := range old {
			if o != nil {
				t.place(o)
			}
		}
	}
	t.place(s)
	t.n++
}

func (t *table) place(s *stream) {
	i := t.slot(s.id)
	if t.slots[i] != nil {
		t.moved++
	}
	for t.slots[i] != nil {
		i = (i + 1) & (len(t.slots) - 1)
	}
	t.slots[i] = s
}

// remove takes s out and moves up those that its absence would hide.
func (t *table) remove(id uint32) {
	if t.n == 0 {
		return
	}
	mask := len(t.slots) - 1
	i := t.slot(id)
	for ; t.slots[i] == nil || t.slots[i].id != id; i = (i + 1) & mask {
		if t.slots[i] == nil {
			return
		}
	}
	t.n--
	if t.moved == 0 {
		t.slots[i] = nil
		return
	}
	if i != t.slot(id) {
		t.moved--
	}
	for j := i; ; {
		j = (j + 1) & mask
		s := t.slots[j]
		if s == nil {
			break
		}
		if home := t.slot(s.id); (j-home)&mask >= (j-i)&mask {
			if home == i {
				t.moved--
			}
			t.slots[i] = s
			i = j
		}
	}
	t.slots[i] = nil
}

// list is an intrusive queue of streams; a stream is in at most one.
type list struct{ head, tail *stream }

func (l *list) push(s *stream) {
	s.in, s.prev, s.next = l, l.tail, nil
	if l.tail != nil {
		l.tail.next = s
	} else {
		l.head = s
	}
	l.tail = s
}

func (l *list) remove(s *stream) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		l.head = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		l.tail = s.prev
	}
	s.in, s.prev, s.next = nil, nil, nil
}

func (s *stream) unlink() {
	if s.in != nil {
		s.in.remove(s)
	}
}
