package netstack

import "github.com/tunmesh/tunmesh/netstack/chunk"

// CopyBulk makes a stack that does not run yet what it is when gVisor's buffers
// are not as give.go and package chunk know them.
func (s *Stack) CopyBulk() {
	for _, l := range s.loops {
		l.chunks, l.copies = chunk.Source{}, true
		for _, ln := range l.links {
			ln.Chunks = l.chunks
		}
	}
}
