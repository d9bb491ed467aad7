package mtls_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/internal/aio/aiotest"
	"github.com/tunmesh/tunmesh/tunproxy/mtls"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
)

// composing is a transport in whose own buffer bytes can be made, as netstack's.
type composing struct {
	*aiotest.Conn
	full  bool
	unfit bool
	calls int
}

func (c *composing) Compose(n int, f func(b []byte) error) (bool, error) {
	switch {
	case c.full:
		return true, aio.ErrWouldBlock
	case c.unfit:
		return false, nil
	}
	c.calls++
	b := make([]byte, n)
	if err := f(b); err != nil {
		return true, err
	}
	c.Put(b)
	return true, nil
}

// TestWriteParts: two pieces of any size arrive as one, in order with other
// writes, whether they are made in the transport's buffer or not.
func TestWriteParts(t *testing.T) {
	for name, with := range map[string]func(*aiotest.Conn) aio.Conn{
		"copied":          func(c *aiotest.Conn) aio.Conn { return c },
		"in place":        func(c *aiotest.Conn) aio.Conn { return &composing{Conn: c} },
		"no room to tell": func(c *aiotest.Conn) aio.Conn { return &composing{Conn: c, unfit: true} },
	} {
		t.Run(name, func(t *testing.T) {
			ca := mtlstest.NewCA(t)
			l := aiotest.NewLoop()
			a, b := aiotest.Pipe(l, 1<<20)
			raw := with(a)
			e := dial(t, l, raw, b, params(ca.Store(t, web, mtls.Config{})), ca.Store(t, api, mtls.Config{}))
			if e.cerr != nil || e.serr != nil {
				t.Fatal(e.cerr, e.serr)
			}
			head := []byte("head")
			for _, n := range []int{1, 4092, 4093, 16 << 10, 16<<10 + 1, 48 << 10, 65_240} {
				body := bytes.Repeat([]byte{byte(n)}, n)
				if err := e.c.WriteParts(head, body); err != nil {
					t.Fatalf("%d bytes: %v", n, err)
				}
				if k, err := e.c.Write(body); k != n || err != nil {
					t.Fatalf("%d bytes: %d, %v", n, k, err)
				}
				l.Run(t)
				want := append(append(bytes.Clone(head), body...), body...)
				var got []byte
				for len(got) < len(want) {
					got = append(got, read(t, e.s, len(want))...)
				}
				if !bytes.Equal(got, want) {
					t.Fatalf("%d bytes arrived changed", n)
				}
			}
			c, ok := raw.(*composing)
			if !ok || c.unfit {
				return
			}
			if c.calls < 6 {
				t.Errorf("%d writes were made in place", c.calls)
			}
			c.full = true
			if err := e.c.WriteParts(head, make([]byte, 50_000)); !errors.Is(err, aio.ErrWouldBlock) {
				t.Errorf("without room: %v", err)
			}
			var ev events
			e.c.SetHandler(&ev)
			c.full = false
			e.c.Writable(c) // as the transport says
			if ev.writable != 1 {
				t.Error("nobody was told that there is room again")
			}
			_ = e.c.CloseWrite()
			if err := e.c.WriteParts(head, head); !errors.Is(err, aio.ErrClosed) {
				t.Errorf("after the half-close: %v", err)
			}
		})
	}
}

// TestCurrent: a connection knows when the certificates that made it are out.
func TestCurrent(t *testing.T) {
	ca := mtlstest.NewCA(t)
	l := aiotest.NewLoop()
	a, b := aiotest.Pipe(l, 0)
	client, server := ca.Store(t, web, mtls.Config{}), ca.Store(t, api, mtls.Config{})
	e := dial(t, l, a, b, params(client), server)
	if !e.c.Current() || !e.s.Current() {
		t.Fatal("a new connection is out of date")
	}
	if err := server.Update(ca.Anchors(), nil); err != nil || !e.s.Current() {
		t.Errorf("an update that changes nothing: %v", err)
	}
	if err := server.Update(nil, ca.Issue(t, mtlstest.Leaf{URIs: []string{api.String()}})); err != nil || e.s.Current() || !e.c.Current() {
		t.Errorf("a new certificate of the server's: %v, %v, %v", err, e.c.Current(), e.s.Current())
	}
	if err := client.Update(append(ca.Anchors(), mtlstest.NewCA(t).Anchors()...), nil); err != nil || e.c.Current() {
		t.Errorf("one more anchor of the client's: %v", err)
	}
}
