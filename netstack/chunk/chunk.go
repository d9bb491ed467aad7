// Package chunk makes views of gVisor's 64 KB chunks as they come from their
// pool. gVisor's own NewView clears the whole chunk first, which costs bulk as
// much as a copy; here, whoever takes a view writes every byte of it before
// anybody reads it. It owns nothing: a view goes back to gVisor's pool with its
// last reference, and the collector takes what bursts leave there.
//
// It knows the layout of gVisor's View and chunk and where their pool is. Find
// compares that with what is linked, and makes gVisor's own, cleared views where
// it is not so; netstack's TestPin fails when gVisor's version moves.
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

// A Source makes views. The zero Source makes gVisor's own.
type Source struct{ uncleared bool }

// Find is the Source for the gVisor that is linked. With an error, which says
// what is not as expected, it is one of gVisor's own views.
func Find() (Source, error) {
	if err := checkLayout(); err != nil {
		return Source{}, err
	}
	if err := checkPool(); err != nil {
		return Source{}, err
	}
	return Source{uncleared: true}, nil
}

// New is a view of Size bytes, whatever they were before. The caller writes all
// that it does not cut off with CapLength.
func (s Source) New() *buffer.View {
	if !s.uncleared {
		return buffer.NewViewSize(Size)
	}
	made := pools[classes-1].Get()
	c := (*[2]unsafe.Pointer)(unsafe.Pointer(&made))[1] // the *chunk in the interface
	initRefs(c)
	v := new(buffer.View)
	w := (*view)(unsafe.Pointer(v))
	w.chunk, w.write = (*piece)(c), Size
	return v
}

// checkLayout compares the types that New assumes with those that are linked.
func checkLayout() error {
	t, mine := reflect.TypeFor[buffer.View](), reflect.TypeFor[view]()
	if t.NumField() != mine.NumField() || t.Size() != mine.Size() {
		return errLayout
	}
	for i := 1; i < t.NumField(); i++ {
		a, b := t.Field(i), mine.Field(i)
		if a.Name != b.Name || a.Offset != b.Offset || a.Type.Kind() != b.Type.Kind() {
			return errLayout
		}
	}
	c, p := t.Field(3).Type.Elem(), reflect.TypeFor[piece]()
	if c.Kind() != reflect.Struct || c.NumField() != 2 || c.Field(0).Offset != 0 || c.Field(0).Type.Size() != p.Field(0).Type.Size() ||
		c.Field(1).Offset != p.Field(1).Offset || c.Field(1).Type != p.Field(1).Type {
		return errLayout
	}
	return nil
}

// checkPool looks whether the pool of the largest chunks is where New looks, and
// has those. A name that gVisor has not is an empty pool of our own to the linker.
func checkPool() error {
	p := &pools[classes-1]
	if p.New == nil {
		return errPool
	}
	made := p.Get()
	if reflect.TypeOf(made) != reflect.TypeFor[buffer.View]().Field(3).Type {
		return errPool // and not put back: whose is it?
	}
	c := (*piece)((*[2]unsafe.Pointer)(unsafe.Pointer(&made))[1])
	if len(c.data) != Size {
		return errPool
	}
	p.Put(made)
	return nil
}

var (
	errLayout = errors.New("find the layout of a view: this is not the gVisor that this package was written for")
	errPool   = errors.New("find the pool of chunks: this is not the gVisor that this package was written for")
)
