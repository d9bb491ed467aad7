package h1

import (
	"github.com/tunmesh/tunmesh/tunproxy/memory"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

const (
	// scratchSize is how much is read at a time: two full TSO segments' worth
	// would be 128 KiB, but a window of 64 KiB arrives in two reads anyway.
	scratchSize = 32 << 10
	// blockSize is the capacity of the blocks that are kept for reuse: most
	// responses, with their heads, fit.
	blockSize = 4 << 10
	// maxBlocks bounds what is kept when a burst is over (1 MiB).
	maxBlocks = 256
	// largeBlock is the capacity of those that bodies need: what gathers in a pass
	// until it is written. Left to append, each would grow through all sizes, and
	// the collector would have more work than the bodies.
	largeBlock = 64 << 10
	// maxLarge bounds those that are kept (256 KiB).
	maxLarge = 4
	// maxStreams bounds the streams that are kept (160 KiB).
	maxStreams = 1024
)

// Buffers is memory that the connections of one loop share. It is used on that
// loop only.
type Buffers struct {
	// Bound is how much connections may hold for peers that are slow. Set it
	// before the first connection; NewBuffers' is the default one.
	Bound *memory.Bound

	scratch []byte       // what is being parsed in this callback
	head    message.Head // the head being parsed and delivered in this callback
	framing framing      // of that head
	free    [][]byte
	large   [][]byte
	streams []*stream
}

// NewBuffers makes an empty store.
func NewBuffers() *Buffers { return &Buffers{Bound: memory.NewBound(0)} }

// read is the scratch buffer, valid until the callback ends.
func (b *Buffers) read() []byte {
	if b.scratch == nil {
		b.scratch = make([]byte, scratchSize)
	}
	return b.scratch
}

// block is an empty buffer of at least n bytes.
func (b *Buffers) block(n int) []byte {
	if n > largeBlock {
		return make([]byte, 0, n)
	}
	if n > blockSize {
		return b.largest()
	}
	if last := len(b.free) - 1; last >= 0 {
		p := b.free[last]
		b.free[last] = nil
		b.free = b.free[:last]
		return p
	}
	return make([]byte, 0, blockSize)
}

// largest is an empty buffer of largeBlock bytes.
func (b *Buffers) largest() []byte {
	last := len(b.large) - 1
	if last < 0 {
		return make([]byte, 0, largeBlock)
	}
	p := b.large[last]
	b.large[last] = nil
	b.large = b.large[:last]
	return p
}

// grow is p with room for n more bytes; p, if it moved, is free again.
func (b *Buffers) grow(p []byte, n int) []byte {
	if len(p)+n > largeBlock || cap(p) >= len(p)+n {
		return p // append knows what to do
	}
	q := append(b.block(len(p)+n), p...)
	b.recycle(p)
	return q
}

// recycle takes a buffer back. Larger ones go to the collector: they belong to
// bursts, and an idle loop should not keep them.
func (b *Buffers) recycle(p []byte) {
	if cap(p) == largeBlock && len(b.large) < maxLarge {
		b.large = append(b.large, p[:0])
	}
	if cap(p) == blockSize && len(b.free) < maxBlocks {
		b.free = append(b.free, p[:0])
	}
}

// stream is one in its zero state.
func (b *Buffers) stream() *stream {
	last := len(b.streams) - 1
	if last < 0 {
		return new(stream)
	}
	s := b.streams[last]
	b.streams[last] = nil
	b.streams = b.streams[:last]
	return s
}

// freeStream takes one back that nobody knows any more.
func (b *Buffers) freeStream(s *stream) {
	if len(b.streams) < maxStreams {
		*s = stream{}
		b.streams = append(b.streams, s)
	}
}
