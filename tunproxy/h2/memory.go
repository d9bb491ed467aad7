package h2

import (
	"github.com/tunmesh/tunmesh/tunproxy/hpack"
	"github.com/tunmesh/tunmesh/tunproxy/memory"
)

const (
	readSize  = 64 << 10 // of the shared read buffer: a TLS record or a batch of segments
	smallSize = 2 << 10  // chunk for a message or two
	largeSize = 16<<10 + 64
	// Spares beyond these go to the garbage collector.
	maxSpareChunks  = 64
	maxSpareStreams = 1024
	// Output buffers: 128 connections may have something to say in one pass, and
	// what all spares hold together is bounded, in bytes.
	maxSpareOutputs = 128
	maxSpareOutput  = 768 << 10
)

// Memory is what the connections of one loop share because only one of them
// runs at a time: the read buffer, the head being decoded, output chunks,
// interned strings, spare streams. It belongs to the loop; full of spares it holds about 3 MB, idle
// from the start nothing.
type Memory struct {
	// Bound is how much connections may hold for receivers that are slow. Set
	// it before the first connection; NewMemory's is the default one.
	Bound *memory.Bound

	read    []byte
	small   [][]byte
	large   [][]byte
	outputs [][]byte
	outSize int // of outputs, in bytes
	streams []*stream
	strings *hpack.Interner

	turns   turns
	head    builder // of the block that is decoded
	onField hpack.Emit
}

// NewMemory makes a Memory for one loop.
func NewMemory() *Memory {
	m := &Memory{Bound: memory.NewBound(0), strings: hpack.NewInterner()}
	m.onField = m.head.add
	m.turns.bind()
	return m
}

// readBuffer is valid until the pass returns to the loop.
func (m *Memory) readBuffer() []byte {
	if m.read == nil {
		m.read = make([]byte, readSize)
	}
	return m.read
}

// chunk lends an empty buffer; n is how much is to go in at first.
func (m *Memory) chunk(n int) []byte {
	spares, size := &m.large, largeSize
	switch {
	case n > largeSize:
		return make([]byte, 0, n)
	case n <= smallSize:
		spares, size = &m.small, smallSize
	}
	if k := len(*spares); k > 0 {
		b := (*spares)[k-1]
		*spares = (*spares)[:k-1]
		return b
	}
	return make([]byte, 0, size)
}

// free takes a chunk back.
func (m *Memory) free(b []byte) {
	spares := &m.small
	switch cap(b) {
	case smallSize:
	case largeSize:
		spares = &m.large
	default:
		return
	}
	if len(*spares) < maxSpareChunks {
		*spares = append(*spares, b[:0])
	}
}

// output lends a connection's output buffer.
func (m *Memory) output() []byte {
	if k := len(m.outputs); k > 0 {
		b := m.outputs[k-1]
		m.outputs[k-1] = nil
		m.outputs = m.outputs[:k-1]
		m.outSize -= cap(b)
		return b
	}
	return make([]byte, 0, 4<<10)
}

func (m *Memory) freeOutput(b []byte) {
	if len(m.outputs) < maxSpareOutputs && m.outSize+cap(b) <= maxSpareOutput {
		m.outSize += cap(b)
		m.outputs = append(m.outputs, b[:0])
	}
}

func (m *Memory) stream() *stream {
	if k := len(m.streams); k > 0 {
		s := m.streams[k-1]
		m.streams = m.streams[:k-1]
		return s
	}
	return new(stream)
}

func (m *Memory) freeStream(s *stream) {
	*s = stream{queue: queue{chunks: s.queue.chunks[:0]}, heads: headQueue{all: s.heads.all[:0]}}
	if len(m.streams) < maxSpareStreams {
		m.streams = append(m.streams, s)
	}
}
