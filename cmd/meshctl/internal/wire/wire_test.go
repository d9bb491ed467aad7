package wire

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/internal/seqpacket"
)

func pair(t *testing.T) (a, b *Channel) {
	t.Helper()
	a, far, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	if b, err = Of(far); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}

func TestSizesAndDescriptors(t *testing.T) {
	a, b := pair(t)
	for _, size := range []int{0, 1, inline - 2, inline, 1 << 20, 8 << 20} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Repeat("x", size)
		if err := a.Send(Message{ID: 7, Op: "op"}, text, int(w.Fd())); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		m, fds, err := b.Receive()
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if err := m.Decode(&got); err != nil || got != text || m.ID != 7 || m.Op != "op" {
			t.Errorf("%d bytes: came as %d, %v", size, len(got), err)
		}
		if len(fds) != 1 {
			t.Fatalf("%d bytes: %d descriptors", size, len(fds))
		}
		// What came is the pipe: closing it ends the reader.
		seqpacket.CloseAll(fds)
		if rest, err := io.ReadAll(r); err != nil || len(rest) != 0 {
			t.Errorf("%d bytes: %q, %v", size, rest, err)
		}
		_ = r.Close()
	}
	_ = a.Close()
	if _, _, err := b.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func TestMissingBody(t *testing.T) {
	a, b := pair(t)
	if err := a.Conn.Send(Message{Op: "op", Big: true}); err != nil {
		t.Fatal(err)
	}
	if m, _, err := b.Receive(); err == nil {
		t.Errorf("a message without its body was taken: %+v", m)
	}
	var v struct{ A int }
	m := Message{Op: "op", Body: []byte(`{"A":"text"}`)}
	if err := m.Decode(&v); err == nil || !strings.Contains(err.Error(), "op") {
		t.Errorf("a body of the wrong form: %v", err)
	}
}
