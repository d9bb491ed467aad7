package hpack

// entry is a field in a dynamic table.
type entry struct {
	name, value string
	class       uint8
}

func (e *entry) size() int { return len(e.name) + len(e.value) + FieldOverhead }

// table is a dynamic table (section 2.3.2): a ring whose newest entry has
// index 0. Entries are also numbered as they come, which tells them apart as long
// as they are there.
type table struct {
	ring      []entry // power of two long
	size, max int     // bytes
	n         int     // entries
	inserted  uint32  // ever, modulo 2^32; the newest entry is inserted-1
}

// at is the i-th newest entry.
func (t *table) at(i int) *entry { return &t.ring[int(t.inserted-1-uint32(i))&(len(t.ring)-1)] }

// has reports whether the entry numbered id is still there.
func (t *table) has(id uint32) bool { d := t.inserted - id; return d > 0 && d <= uint32(t.n) }

// byID is the entry with that number, which must be there.
func (t *table) byID(id uint32) *entry { return &t.ring[int(id)&(len(t.ring)-1)] }

// setMax changes the size limit and evicts what no longer fits.
func (t *table) setMax(limit int) {
	t.max = limit
	t.shrink(limit)
}

func (t *table) shrink(limit int) {
	for t.size > limit {
		e := t.at(t.n - 1)
		t.size -= e.size()
		*e = entry{}
		t.n--
	}
}

// insert adds e. One that is larger than the table empties it (section 4.4).
func (t *table) insert(e entry) {
	s := e.size()
	if s > t.max {
		t.shrink(0)
		return
	}
	t.shrink(t.max - s)
	if t.n == len(t.ring) {
		old := *t
		t.ring = make([]entry, max(8, 2*len(old.ring)))
		for i := range t.n {
			id := t.inserted - 1 - uint32(i)
			*t.byID(id) = *old.byID(id)
		}
	}
	t.inserted++
	*t.at(0) = e
	t.n++
	t.size += s
}
