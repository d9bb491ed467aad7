package tunproxy_test

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/test/siege/attack"
)

// A replay is bytes made before, sent on connections of the attacker's loop:
// an attack that costs the attacker as little as can be.
type replay struct {
	attack.Replay
	dst string
}

// replayed are counts of what became of the connections.
type replayed struct{ begun, ended, refused, gaveUp atomic.Int64 }

// start attacks until end is called.
func (r replay) start(h *host, n *replayed) (end func()) {
	loop := h.stack.Loops()[0]
	r.Replay = r.Whole()
	under := map[*replaying]struct{}{} // the loop's
	over, dialling := false, 0
	more := func() {
		for range r.Begin {
			if over || len(under)+dialling >= r.AtOnce {
				return
			}
			dialling++
			n.begun.Add(1)
			loop.Dial(aio.DialRequest{Side: aio.Wire, Src: netip.AddrPortFrom(h.addr, 0), Dst: netipAddrPort(r.dst), Timeout: 20 * time.Second, Done: func(c aio.Conn, err error) {
				dialling--
				switch {
				case err != nil:
					n.refused.Add(1)
				case over:
					c.Reset()
				default:
					k := &replaying{replay: r, n: n, c: c, left: r.Bytes, loop: loop, under: under}
					under[k] = struct{}{}
					k.start()
				}
			}})
		}
	}
	stop := func() {}
	if r.Every > 0 {
		stop = h.every(r.Every, more)
	} else {
		loop.Post(more)
	}
	return func() {
		stop()
		done := make(chan struct{})
		loop.Post(func() {
			over = true
			for k := range under {
				k.end()
			}
			close(done)
		})
		<-done
	}
}

type replaying struct {
	replay
	n     *replayed
	c     aio.Conn
	left  []byte
	loop  aio.Loop
	under map[*replaying]struct{}
	over  bool
}

func (k *replaying) start() {
	k.c.SetHandler(k)
	k.write()
	if k.Gap > 0 {
		k.loop.AfterFunc(k.Gap, k.again)
	}
	if k.Gives > 0 {
		k.loop.AfterFunc(k.Gives, func() {
			if !k.over {
				k.n.gaveUp.Add(1)
				k.end()
			}
		})
	}
}

func (k *replaying) again() {
	if k.over {
		return
	}
	if len(k.left) == 0 {
		k.left = k.Then
	}
	k.write()
	k.loop.AfterFunc(k.Gap, k.again)
}

func (k *replaying) write() {
	n, _ := k.c.Write(k.left)
	k.left = k.left[n:]
}

func (k *replaying) end() {
	k.over = true
	delete(k.under, k)
	k.c.Reset()
}

func (k *replaying) Writable(aio.Conn) { k.write() }
func (k *replaying) Readable(c aio.Conn) {
	var sink [16 << 10]byte
	for !k.Deaf {
		if _, err := c.Read(sink[:]); err != nil {
			if !errors.Is(err, aio.ErrWouldBlock) {
				k.Closed(c, err)
			}
			return
		}
	}
}
func (k *replaying) Closed(aio.Conn, error) {
	if !k.over {
		k.n.ended.Add(1)
		k.end()
	}
}
