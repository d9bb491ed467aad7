package hpack

import "hash/maphash"

const (
	internSets   = 128
	internLength = 2 << 10  // longer strings are rarely seen twice
	internBudget = 64 << 10 // bytes of all strings kept
)

// Interner makes strings of bytes and remembers recent ones, so that a value
// that comes again costs no allocation. It also lends scratch space. It serves
// any number of coders of one goroutine.
type Interner struct {
	seed    maphash.Seed
	slots   [internSets][2]string // the one used last first
	size    int
	scratch []byte
}

// NewInterner makes an empty one; full, it holds at most 64 KiB of strings.
func NewInterner() *Interner { return &Interner{seed: maphash.MakeSeed()} }

// String is string(b).
func (in *Interner) String(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if len(b) > internLength {
		return string(b)
	}
	set := &in.slots[maphash.Bytes(in.seed, b)%internSets]
	if set[0] == string(b) {
		return set[0]
	}
	if set[1] == string(b) {
		set[0], set[1] = set[1], set[0]
		return set[0]
	}
	in.size += len(b) - len(set[1])
	if in.size > internBudget {
		clear(in.slots[:])
		in.size = len(b)
	}
	set[0], set[1] = string(b), set[0]
	return set[0]
}

// Lower is s with ASCII letters in lower case: s itself when it has no others.
func (in *Interner) Lower(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := append(in.scratch[:0], s...)
			for i, c := range b {
				if 'A' <= c && c <= 'Z' {
					b[i] = c + 'a' - 'A'
				}
			}
			in.keep(b)
			return in.String(b)
		}
	}
	return s
}

// keep takes scratch back unless something huge went through it.
func (in *Interner) keep(b []byte) {
	if cap(b) <= 2*internLength {
		in.scratch = b[:0]
	}
}
