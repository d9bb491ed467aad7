package chunk_test

import (
	"bytes"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/tunmesh/tunmesh/netstack/chunk"
)

// The gVisor in go.mod is the one that the package was written for.
func TestFind(t *testing.T) {
	if _, err := chunk.Find(); err != nil {
		t.Fatal(err)
	}
}

// find is the Source that sidecars use.
func find(t *testing.T) chunk.Source {
	t.Helper()
	s, err := chunk.Find()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Without the layout, views are gVisor's own: cleared, and otherwise the same.
func TestZeroSourceIsGVisors(t *testing.T) {
	for range 4 {
		v := find(t).New() // leaves bytes in the pool
		fill(v.AsSlice(), 1)
		v.Release()
		v = chunk.Source{}.New()
		if b := v.AsSlice(); len(b) != chunk.Size || !bytes.Equal(b, make([]byte, chunk.Size)) {
			t.Fatalf("%d bytes, or not clear", len(b))
		}
		v.Release()
	}
}

// A view from New is one of gVisor's: its memory is shared by clones, copied when
// one of them is written to, and used again only after the last of them.
func TestNewIsAView(t *testing.T) {
	s := find(t)
	v := s.New()
	if v.Size() != chunk.Size || v.Capacity() != chunk.Size {
		t.Fatalf("%d of %d bytes", v.Size(), v.Capacity())
	}
	fill(v.AsSlice(), 1)
	c := v.Clone()
	v.CapLength(1000)
	if _, err := v.WriteAt([]byte{99}, 0); err != nil || v.AsSlice()[0] != 99 {
		t.Fatal("a write is lost")
	}
	v.Release()
	for range 8 { // would take c's chunk, if that were free
		o := s.New()
		fill(o.AsSlice(), 2)
		defer o.Release()
	}
	want := make([]byte, chunk.Size)
	fill(want, 1)
	if !bytes.Equal(c.AsSlice(), want) {
		t.Error("a clone's bytes changed")
	}
	b := buffer.MakeWithView(c)
	b.TrimFront(3)
	if got := b.Flatten(); !bytes.Equal(got, want[3:]) {
		t.Error("a buffer of it is another")
	}
	b.Release()
}

// gVisor's own views of the same pool never meet what New's left there.
func TestPoolIsShared(t *testing.T) {
	s := find(t)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for range 500 {
				v := s.New()
				fill(v.AsSlice(), g)
				o := buffer.NewViewSize(chunk.Size)
				for _, i := range []int{0, 1, 40_000, chunk.Size - 1} {
					if o.AsSlice()[i] != 0 {
						t.Error("gVisor's view is not clear")
					}
					if v.AsSlice()[i] != byte(i+g) {
						t.Error("two views have one chunk")
					}
				}
				v.Release()
				o.Release()
			}
		})
	}
	wg.Wait()
}

func fill(b []byte, seed int) {
	for i := range b {
		b[i] = byte(i + seed)
	}
}
