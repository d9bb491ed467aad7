package h2

import "github.com/tunmesh/tunmesh/tunproxy/message"

// headQueue is a stream's heads that wait for room. It copies them into storage
// that is used again.
type headQueue struct {
	all   []pendingHead
	first int
}

type pendingHead struct {
	head message.Head
	end  bool
}

// maxSpareFields is how many fields' storage is worth keeping.
const maxSpareFields = 32

func (q *headQueue) len() int { return len(q.all) - q.first }

func (q *headQueue) push(h *message.Head, end bool) {
	n := len(q.all)
	if n < cap(q.all) {
		q.all = q.all[:n+1]
	} else {
		q.all = append(q.all, pendingHead{})
	}
	p := &q.all[n]
	fields := append(p.head.Fields[:0], h.Fields...)
	p.head, p.end = *h, end
	p.head.Fields = fields
}

// next is the first; it is valid until pop.
func (q *headQueue) next() *pendingHead { return &q.all[q.first] }

func (q *headQueue) pop() {
	if q.first++; q.first == len(q.all) {
		q.clear()
	}
}

func (q *headQueue) clear() {
	for i := range q.all {
		fields := q.all[i].head.Fields
		clear(fields)
		if cap(fields) > maxSpareFields {
			fields = nil
		}
		q.all[i] = pendingHead{head: message.Head{Fields: fields[:0]}}
	}
	q.all, q.first = q.all[:0], 0
}

// queue is a stream's body bytes that wait for window or room.
type queue struct {
	chunks [][]byte
	first  int // chunk that is not read yet
	off    int // read of that chunk
	size   int
}

func (q *queue) write(m *Memory, p []byte) {
	q.size += len(p)
	for len(p) > 0 {
		k := len(q.chunks)
		if k == 0 || len(q.chunks[k-1]) == cap(q.chunks[k-1]) {
			n := min(len(p), largeSize)
			if k > 0 { // it is becoming a heap: fewer, larger chunks
				n = largeSize
			}
			q.chunks = append(q.chunks, m.chunk(n))
			k++
		}
		last := q.chunks[k-1]
		n := min(len(p), cap(last)-len(last))
		q.chunks[k-1] = append(last, p[:n]...)
		p = p[n:]
	}
}

// appendTo moves the first n bytes, of at least n, to dst.
func (q *queue) appendTo(m *Memory, dst []byte, n int) []byte {
	q.size -= n
	for n > 0 {
		first := q.chunks[q.first]
		k := min(n, len(first)-q.off)
		dst = append(dst, first[q.off:q.off+k]...)
		n -= k
		if q.off += k; q.off == len(first) {
			m.free(first)
			q.chunks[q.first] = nil
			q.first++
			q.off = 0
		}
	}
	if q.first == len(q.chunks) {
		q.chunks, q.first = q.chunks[:0], 0
	}
	return dst
}

func (q *queue) clear(m *Memory) {
	for _, b := range q.chunks[q.first:] {
		m.free(b)
	}
	clear(q.chunks)
	*q = queue{chunks: q.chunks[:0]}
}
