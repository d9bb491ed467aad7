package discover

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
)

// Labels are an endpoint's or a workload's, in one piece of memory: a map of each of ten thousand
// endpoints would take more than all the rest of them, and few are ever asked for
// theirs. Equal labels are ==. The zero value is none.
type Labels struct{ packed string } // sorted by name; each text with its length before it

// LabelsOf packs m.
func LabelsOf(m map[string]string) Labels {
	var b []byte
	for _, name := range slices.Sorted(maps.Keys(m)) {
		b = appendText(appendText(b, []byte(name)), []byte(m[name]))
	}
	return Labels{string(b)}
}

// own is the label that tells the endpoints of a workload apart.
const own = "pod"

// labels packs what came, an endpoint's own apart from the others; l is sorted by it.
func (r *reader) labels(l []wire.Label) {
	slices.SortStableFunc(l, func(a, b wire.Label) int { return bytes.Compare(a.Name, b.Name) })
	r.own, r.others = r.own[:0], r.others[:0]
	for i := range l {
		if i+1 < len(l) && bytes.Equal(l[i].Name, l[i+1].Name) {
			continue // a later one counts
		}
		to := &r.others
		if string(l[i].Name) == own {
			to = &r.own
		}
		*to = appendText(appendText(*to, l[i].Name), l[i].Value)
	}
}

// into unpacks them.
func (l Labels) into(m map[string]string) {
	for rest := l.packed; rest != ""; {
		var name string
		name, rest = cutText(rest)
		m[name], rest = cutText(rest)
	}
}

func appendText(b, text []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// cutText takes the first text off. It aliases s.
func cutText(s string) (text, rest string) {
	n, shift := uint64(0), 0
	for i := 0; ; i++ {
		n |= uint64(s[i]&0x7f) << shift
		if s[i] < 0x80 {
			s = s[i+1:]
			return s[:n], s[n:]
		}
		shift += 7
	}
}
