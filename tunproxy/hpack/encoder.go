package hpack

import (
	"hash/maphash"
	"slices"
	"strings"
)

// Indexing is how a field may be put into the peer's table.
type Indexing uint8

const (
	// Auto indexes a field when it is seen for the second time within a while,
	// so that values which never come again don't push out those which do.
	Auto Indexing = iota
	// Always indexes a field that is not in the table yet.
	Always
	// Without leaves the table alone; hops behind the peer may index it.
	Without
	// Never forbids indexing here and on all further hops (section 7.1.3).
	Never
)

const (
	indexWays  = 4
	indexSets  = 64
	recentSets = 32
	recentWays = 4
	usualLen   = 64
	maxEncoder = DefaultTableSize * 4
)

// Encoder writes header blocks of one direction of one connection.
type Encoder struct {
	table  table
	limit  int // the most that the peer allows
	own    int // the most that we want
	lowest int // smallest size since the last block, -1: unchanged
	seed   maphash.Seed
	index  *encoderIndex                  // made with the first insertion
	recent [recentSets][recentWays]uint32 // hashes of fields; the last one first
	// usual are the entries that were used last, by what their strings look like:
	// messages repeat themselves, and comparing is cheaper than hashing.
	usual [usualLen]uint32 // number of an entry, plus one; 0: none
}

// encoderIndex finds entries of the table: a cache of entry numbers by hash,
// whose misses cost bytes on the wire, not correctness.
type encoderIndex struct {
	fields [indexSets][indexWays]slot // by name and value
	names  [indexSets][2]slot         // by name
}

type slot struct {
	id   uint32 // of the entry, plus one; 0: free
	hash uint32
}

// NewEncoder makes an encoder that uses at most tableSize bytes (and at most
// 16 KiB) of what the peer allows.
func NewEncoder(tableSize int) *Encoder {
	e := &Encoder{limit: DefaultTableSize, own: min(tableSize, maxEncoder), lowest: -1, seed: maphash.MakeSeed()}
	e.table.max = DefaultTableSize
	e.resize()
	return e
}

// SetLimit takes the peer's SETTINGS_HEADER_TABLE_SIZE.
func (e *Encoder) SetLimit(size uint32) {
	e.limit = int(min(size, maxEncoder))
	e.resize()
}

func (e *Encoder) resize() {
	size := min(e.limit, e.own)
	if size == e.table.max && e.lowest < 0 {
		return
	}
	if e.lowest < 0 || size < e.lowest {
		e.lowest = size
	}
	e.table.setMax(size)
}

// Begin starts a block: it appends size updates that are due (section 4.2).
func (e *Encoder) Begin(dst []byte) []byte {
	if e.lowest < 0 {
		return dst
	}
	if e.lowest < e.table.max {
		dst = appendInt(dst, 0x20, 5, uint64(e.lowest))
	}
	e.lowest = -1
	return appendInt(dst, 0x20, 5, uint64(e.table.max))
}

// Append appends one field. name is in lower case.
func (e *Encoder) Append(dst []byte, name, value string, how Indexing) []byte {
	if how == Never {
		return e.literal(dst, 0x10, 4, e.nameIndex(name, staticName(name), 0), name, value)
	}
	usual := &e.usual[look(name, value)]
	if id := *usual - 1; *usual > 0 && e.table.has(id) {
		if x := e.table.byID(id); x.value == value && x.name == name {
			return appendInt(dst, 0x80, 7, e.position(*usual))
		}
	}
	static := staticName(name)
	if i := static; i > 0 {
		for ; i <= staticLen && staticTable[i].name == name; i++ {
			if staticTable[i].value == value {
				return appendInt(dst, 0x80, 7, uint64(i))
			}
		}
	}
	nameHash := uint32(maphash.String(e.seed, name))
	hash := nameHash*0x9e3779b1 ^ uint32(maphash.String(e.seed, value))
	if e.index != nil {
		for i := range e.index.fields[hash%indexSets] {
			s := &e.index.fields[hash%indexSets][i]
			if s.id == 0 || s.hash != hash || !e.table.has(s.id-1) {
				continue
			}
			if x := e.table.byID(s.id - 1); x.name == name && x.value == value {
				*usual = s.id
				return appendInt(dst, 0x80, 7, e.position(s.id))
			}
		}
	}
	index := e.nameIndex(name, static, nameHash)
	size := len(name) + len(value) + FieldOverhead
	if how == Without || size > e.table.max/2 && how != Always || size > e.table.max || how == Auto && !e.again(hash) {
		return e.literal(dst, 0, 4, index, name, value)
	}
	dst = e.literal(dst, 0x40, 6, index, name, value)
	e.insert(name, value, static, nameHash, hash)
	return dst
}

// again reports whether the hash was seen lately, and remembers it.
func (e *Encoder) again(hash uint32) bool {
	set := &e.recent[hash>>8%recentSets]
	if slices.Contains(set[:], hash) {
		return true
	}
	copy(set[1:], set[:]) // the oldest gives way
	set[0] = hash
	return false
}

func (e *Encoder) insert(name, value string, static int, nameHash, hash uint32) {
	if e.index == nil {
		e.index = new(encoderIndex)
	}
	// A table must not pin the buffers that its strings were cut from.
	if static > 0 {
		name = staticTable[static].name
	} else {
		name = strings.Clone(name)
	}
	e.table.insert(entry{name: name, value: strings.Clone(value)})
	s := slot{id: e.table.inserted, hash: hash}
	*oldest(e.index.fields[hash%indexSets][:]) = s
	if static == 0 {
		s.hash = nameHash
		*oldest(e.index.names[nameHash%indexSets][:]) = s
	}
}

// look is a number below usualLen that differs for most fields of a message.
func look(name, value string) int {
	n := len(name) + 5*len(value)
	if len(name) > 0 {
		n += 11 * int(name[len(name)-1])
	}
	if len(value) > 0 {
		n += 7 * int(value[len(value)-1])
	}
	return n % usualLen
}

// position is the index on the wire of the entry whose number plus one is given.
func (e *Encoder) position(next uint32) uint64 { return staticLen + uint64(e.table.inserted-(next-1)) }

// oldest is the slot to be replaced: a free one has number 0.
func oldest(ways []slot) *slot {
	o := &ways[0]
	for i := range ways {
		if ways[i].id < o.id {
			o = &ways[i]
		}
	}
	return o
}

// nameIndex is an index whose entry has that name; 0: none known.
func (e *Encoder) nameIndex(name string, static int, hash uint32) uint64 {
	if static > 0 || e.index == nil {
		return uint64(static)
	}
	if hash == 0 {
		hash = uint32(maphash.String(e.seed, name))
	}
	ways := &e.index.names[hash%indexSets]
	for i := range ways {
		if s := &ways[i]; s.id > 0 && s.hash == hash && e.table.has(s.id-1) && e.table.byID(s.id-1).name == name {
			return e.position(s.id)
		}
	}
	return 0
}

// literal appends a literal field whose name is at index, or follows.
func (e *Encoder) literal(dst []byte, first byte, prefix uint, index uint64, name, value string) []byte {
	dst = appendInt(dst, first, prefix, index)
	if index == 0 {
		dst = appendText(dst, name)
	}
	return appendText(dst, value)
}

// appendText appends a string in the shorter of its two forms.
func appendText(dst []byte, s string) []byte {
	if n := huffmanSize(s); n < len(s) {
		return appendHuffman(appendInt(dst, 0x80, 7, uint64(n)), s)
	}
	return append(appendInt(dst, 0, 7, uint64(len(s))), s...)
}
