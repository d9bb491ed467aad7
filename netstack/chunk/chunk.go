// Package chunk makes views of gVisor's 64 KB chunks as they come from their
// pool. gVisor's own NewView clears the whole chunk first, which costs bulk as
// much as a copy; here, whoever takes a view writes every byte of it before
// anybody reads it. It owns nothing: a view goes back to gVisor's pool with its
// last reference, and the collector takes what bursts leave there.
//
// It knows the layout of gVisor's View and chunk, which Check compares with the
// types that are linked; netstack's TestPin fails when gVisor's version moves.
package chunk

import (
	"errors"
	"reflect"
	"sync"
	"unsafe"

	"gvisor.dev/gvisor/pkg/buffer"
)

// Size is what a view from New holds, in bytes.
const Size = buffer.MaxChunkSize

//go:linkname pools gvisor.dev/gvisor/pkg/buffer.chunkPools
var pools [classes]sync.Pool //nolint:gochecknoglobals // gVisor's

//go:linkname initRefs gvisor.dev/gvisor/pkg/buffer.(*chunkRefs).InitRefs
func initRefs(refs unsafe.Pointer)

const classes = 11 // 64 bytes to 64 KB

// view is buffer.View.
type view struct {
	_           buffer.ViewEntry
	read, write int
	chunk       *piece
}

// piece is gVisor's chunk: its reference count comes first.
type piece struct {
	refs int64
	data []byte
}

// New is a view of Size bytes, whatever they were before. The caller writes all
// that it does not cut off with CapLength.
func New() *buffer.View {
	made := pools[classes-1].Get()
	c := (*[2]unsafe.Pointer)(unsafe.Pointer(&made))[1] // the *chunk in the interface
	initRefs(c)
	v := new(buffer.View)
	w := (*view)(unsafe.Pointer(v))
	w.chunk, w.write = (*piece)(c), Size
	return v
}

// Check compares what New assumes with what is linked.
func Check() error {
	t, mine := reflect.TypeFor[buffer.View](), reflect.TypeFor[view]()
	if t.NumField() != mine.NumField() || t.Size() != mine.Size() {
		return errLayout
	}
	for i := 1; i < t.NumField(); i++ {
		a, b := t.Field(i), mine.Field(i)
		if a.Name != b.Name || a.Offset != b.Offset {
			return errLayout
		}
	}
	c, p := t.Field(3).Type.Elem(), reflect.TypeFor[piece]()
	if c.NumField() != 2 || c.Field(0).Offset != 0 || c.Field(0).Type.Size() != p.Field(0).Type.Size() ||
		c.Field(1).Offset != p.Field(1).Offset || c.Field(1).Type != p.Field(1).Type {
		return errLayout
	}
	return nil
}

var errLayout = errors.New("find the layout of a view: this is not the gVisor that this package was written for")
