package h2

// Memory is what the connections of one loop share because only one of them
// runs at a time: the read buffer, output chunks, interned strings, spare
// streams. It belongs to the loop.
type Memory struct {
	read []byte
}

// NewMemory makes a Memory for one loop.
func NewMemory() *Memory { return &Memory{} }
