package exchange

import (
	"slices"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

func manyFields(n int) (f []message.Field) {
	for i := range n {
		f = append(f, message.Field{Name: "x-" + strings.Repeat("n", i%200), Value: strings.Repeat("v", i%300), Sensitive: i%7 == 0})
	}
	return f
}

// What is folded comes out as it was.
func TestFold(t *testing.T) {
	for _, n := range []int{0, 1, 65, 1088} {
		f := manyFields(n)
		b := foldOf(f)
		if got := b.appendFields(nil); !slices.Equal(got, f) || b.count() != n {
			t.Errorf("%d fields: %d, %v", n, b.count(), got)
		}
		if cap(b) != len(b) {
			t.Errorf("%d fields: %d bytes in %d", n, len(b), cap(b))
		}
	}
	b := foldOf([]message.Field{{Name: "A", Value: "1"}, {Name: "a", Value: "2"}})
	if v, ok := b.get("a"); v != "1" || !ok {
		t.Errorf("a is %q, %v", v, ok)
	}
	if _, ok := b.get("b"); ok {
		t.Error("b is there")
	}
}

func FuzzFold(f *testing.F) {
	f.Add("a\x00b\x00\x00c", 3)
	f.Fuzz(func(t *testing.T, s string, n int) {
		var fs []message.Field
		for i, part := range strings.Split(s, "\x00") {
			cut := min(max(n, 0), len(part))
			fs = append(fs, message.Field{Name: part[:cut], Value: part[cut:], Sensitive: i%2 == 0})
		}
		if got := foldOf(fs).appendFields(nil); !slices.Equal(got, fs) {
			t.Fatalf("%v became %v", fs, got)
		}
	})
}

// A long head is folded between passes, and whole for whoever asks: in the attempt
// after a refused one, and at the end.
func TestALongHeadIsFoldedBetweenPasses(t *testing.T) {
	w := newWorld(t)
	f := manyFields(500)
	f[3] = message.Field{Name: "x-who", Value: "me"}
	w.cfg.Serve(w.down)
	w.down.r.Head(w.down, &message.Head{Method: "GET", Path: "/", Version: message.HTTP2, Fields: f}, true)
	x := w.asked
	w.loop.Pass()
	if x.folded == nil || x.req.Fields != nil {
		t.Fatal("it was not folded")
	}
	if v, _ := x.RequestField("x-who"); v != "me" || x.unfolded {
		t.Errorf("x-who is %q; unfolded: %v", v, x.unfolded)
	}
	if got := x.Request().Fields; !slices.Equal(got, f) {
		t.Errorf("unfolded it is %v", got)
	}
	if v, _ := x.RequestField("x-who"); v != "me" {
		t.Errorf("x-who is %q", v)
	}
	w.loop.Pass()
	if x.req.Fields != nil {
		t.Fatal("it was not folded again")
	}
	w.ups[0].refuse()
	if got := w.ups[1].head.Fields; !slices.Equal(got, f) {
		t.Errorf("sent again it is %v", got)
	}
	w.respond(w.ups[1], 200, true)
	w.loop.Pass()
	if len(w.cfg.Spares.free) != 1 || len(w.cfg.Spares.unfolded) != 0 {
		t.Errorf("%d spare, %d unfolded", len(w.cfg.Spares.free), len(w.cfg.Spares.unfolded))
	}
}

// What observers add to a long head when they are told of it is in every attempt,
// also when the request waited for its endpoint.
func TestWhatIsAddedToAFoldedHeadStays(t *testing.T) {
	w := newWorld(t)
	w.cfg.Observers = append(w.cfg.Observers, adder{})
	var waiting *Exchange
	open := w.cfg.Opener
	w.cfg.Opener = opener(func(x *Exchange) { waiting = x })
	w.cfg.Serve(w.down)
	w.down.r.Head(w.down, &message.Head{Method: "GET", Path: "/", Version: message.HTTP2, Fields: manyFields(100)}, true)
	w.loop.Pass()
	w.cfg.Opener = open
	open.Open(waiting)
	w.loop.Pass()
	w.ups[0].refuse()
	for i, up := range w.ups[:2] {
		if v, ok := up.head.Get("added"); !ok || v != "yes" || len(up.head.Fields) != 101 {
			t.Errorf("attempt %d has %d fields, added %q", i, len(up.head.Fields), v)
		}
	}
}

type adder struct{}

func (adder) Request(x *Exchange) {
	h := x.Request()
	h.Fields = append(h.Fields, message.Field{Name: "added", Value: "yes"})
}
func (adder) Response(*Exchange, *message.Head) {}
func (adder) End(*Exchange, *Result)            {}
