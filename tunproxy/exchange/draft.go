package exchange

import "github.com/tunmesh/tunmesh/tunproxy/message"

// A draft is a head, or trailers, on the way from one stream to the other, which
// translators may rewrite. It is of use until the call that it was made for
// returns: streams copy what they keep, so that one serves all of a loop.
type draft struct {
	head message.Head
	used int // of the fields' array; translators may have made the list shorter
}

// draft is the loop's; the nil Spares makes one.
func (s *Spares) draft() *draft {
	if s == nil {
		return &draft{}
	}
	return &s.out
}

// copyHead makes the draft of a head.
func (d *draft) copyHead(h *message.Head) *message.Head {
	fields := d.copy(h.Fields)
	d.head = *h
	d.head.Fields = fields
	return &d.head
}

// copy makes the draft of fields. Nothing is left of the one before: a long one's
// strings would stay for ever.
func (d *draft) copy(f []message.Field) []message.Field {
	was := max(d.used, len(d.head.Fields))
	d.used = len(f)
	d.head.Fields = append(d.head.Fields[:0], f...)
	if d.used < was {
		clear(d.head.Fields[d.used:was])
	}
	return d.head.Fields
}
