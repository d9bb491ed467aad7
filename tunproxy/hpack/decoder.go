package hpack

// Classifier puts fields into classes that mean something to the decoder's
// user. A field in a table is classified once, not each time it is used.
type Classifier struct {
	classify func(name, value string) uint8
	static   [staticLen + 1]uint8
}

// NewClassifier makes a classifier of a pure function.
func NewClassifier(f func(name, value string) uint8) *Classifier {
	c := &Classifier{classify: f}
	for i := 1; i <= staticLen; i++ {
		c.static[i] = f(staticTable[i].name, staticTable[i].value)
	}
	return c
}

// Emit hears a decoded field. Sensitive: it must never be indexed further on.
type Emit func(name, value string, class uint8, sensitive bool)

// Decoder reads header blocks of one direction of one connection.
type Decoder struct {
	table   table
	limit   int // of table.max, as announced to the peer
	changed bool
	in      *Interner
	classes *Classifier
}

// NewDecoder makes a decoder whose table holds DefaultTableSize until SetLimit.
func NewDecoder(in *Interner, classes *Classifier) *Decoder {
	d := &Decoder{limit: DefaultTableSize, in: in, classes: classes}
	d.table.max = DefaultTableSize
	return d
}

// SetLimit changes the table size that the encoder may choose; the peer has
// acknowledged the setting. If the table is larger now, the next block must
// begin with an update (section 4.2).
func (d *Decoder) SetLimit(size int) {
	d.limit = size
	d.changed = d.table.max > size
}

// Decode reads one whole block and emits its fields in order, as long as they
// add up to maxList bytes with FieldOverhead for each; far beyond it gives up.
// b is borrowed.
func (d *Decoder) Decode(b []byte, maxList int, emit Emit) error {
	list, updates := 0, true
	for len(b) > 0 {
		if list > bombFactor*maxList {
			return ErrBomb
		}
		c := b[0]
		if c&0xe0 == 0x20 { // size update (6.3)
			size, rest, err := readInt(b, 5)
			if err != nil {
				return err
			}
			if !updates || size > uint64(d.limit) {
				return ErrSize
			}
			d.table.setMax(int(size))
			d.changed = false
			b = rest
			continue
		}
		if d.changed {
			return ErrSize
		}
		updates = false
		if c >= 0x80 { // indexed (6.1)
			i, rest, err := readInt(b, 7)
			if err != nil {
				return err
			}
			e, ok := d.lookup(i)
			if !ok {
				return ErrIndex
			}
			b = rest
			if list += e.size(); list <= maxList {
				emit(e.name, e.value, e.class, false)
			}
			continue
		}
		var err error
		if b, err = d.literal(b, &list, maxList, emit); err != nil {
			return err
		}
	}
	if list > maxList {
		return ErrListTooLarge
	}
	return nil
}

// literal reads a literal field (6.2.1 to 6.2.3). list is not added to beyond
// overflow: a block is far shorter than 2^31 bytes.
func (d *Decoder) literal(b []byte, list *int, maxList int, emit Emit) ([]byte, error) {
	c := b[0]
	index, sensitive, prefix := c&0xc0 == 0x40, c&0xf0 == 0x10, uint(4)
	if index {
		prefix = 6
	}
	i, b, err := readInt(b, prefix)
	if err != nil {
		return nil, err
	}
	var e entry
	if i > 0 {
		known, ok := d.lookup(i)
		if !ok {
			return nil, ErrIndex
		}
		e.name = known.name
	} else {
		n, raw, rest, err := d.text(b)
		if err != nil {
			return nil, err
		}
		e.name, b = d.in.String(raw), rest
		d.in.keep(n)
	}
	n, raw, b, err := d.text(b)
	if err != nil {
		return nil, err
	}
	*list += len(e.name) + len(raw) + FieldOverhead
	if fits := *list <= maxList; fits || index {
		if sensitive {
			e.value = string(raw)
		} else {
			e.value = d.in.String(raw)
		}
		e.class = d.classes.classify(e.name, e.value)
		if index {
			d.table.insert(e)
		}
		if fits {
			emit(e.name, e.value, e.class, sensitive)
		}
	}
	d.in.keep(n)
	return b, nil
}

// text reads a string (5.2). raw lies in b or in scratch, which the caller
// gives back with Interner.keep once it is done with raw.
func (d *Decoder) text(b []byte) (scratch, raw, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, nil, ErrTruncated
	}
	huffman := b[0] >= 0x80
	n, b, err := readInt(b, 7)
	if err != nil {
		return nil, nil, nil, err
	}
	if n > uint64(len(b)) {
		return nil, nil, nil, ErrTruncated
	}
	raw, rest = b[:n], b[n:]
	scratch = d.in.scratch
	if huffman {
		if scratch, err = decodeHuffman(scratch[:0], raw); err != nil {
			return nil, nil, nil, err
		}
		raw = scratch
	}
	return scratch, raw, rest, nil
}

func (d *Decoder) lookup(i uint64) (entry, bool) {
	switch {
	case i == 0:
		return entry{}, false
	case i <= staticLen:
		p := &staticTable[i]
		return entry{p.name, p.value, d.classes.static[i]}, true
	case i-staticLen > uint64(d.table.n):
		return entry{}, false
	}
	return *d.table.at(int(i - staticLen - 1)), true
}
