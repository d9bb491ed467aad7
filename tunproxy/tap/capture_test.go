package tap_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	api "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/tunproxy/tap"
)

// wires stands for where packets are seen.
type wires struct {
	mu   sync.Mutex
	show func(app, sent bool, parts [][]byte, size int)
}

func (w *wires) watch(f func(app, sent bool, parts [][]byte, size int)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.show = f
}

func (w *wires) watched() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.show != nil
}

func (w *wires) packet(app, sent bool, parts ...[]byte) {
	w.mu.Lock()
	f := w.show
	w.mu.Unlock()
	if f != nil {
		f(app, sent, parts, len(bytes.Join(parts, nil)))
	}
}

// segment is an IPv4 or IPv6 packet of TCP with some bytes.
func segment(src, dst string, data string) []byte {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	b := make([]byte, 20)
	b[0], b[9] = 0x45, 6
	copy(b[12:], s.Addr().AsSlice())
	copy(b[16:], d.Addr().AsSlice())
	if s.Addr().Is6() {
		b = make([]byte, 40)
		b[0], b[6] = 0x60, 6
		copy(b[8:], s.Addr().AsSlice())
		copy(b[24:], d.Addr().AsSlice())
	}
	b = binary.BigEndian.AppendUint16(b, s.Port())
	b = binary.BigEndian.AppendUint16(b, d.Port())
	return append(append(b, make([]byte, 16)...), data...)
}

func (p *plane) packets() (list []string, lost uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.packs {
		lost += m.GetLost()
		for _, x := range m.GetPackets() {
			list = append(list, fmt.Sprintf("%v %v %d %s", x.GetApp(), x.GetSent(), x.GetLength(), x.GetData()[min(40, len(x.GetData())):]))
		}
	}
	return list, lost
}

func TestCapture(t *testing.T) {
	w := newWorld(t, true)
	var x wires
	w.hub.SetPackets(tap.Packets{Watch: x.watch, Connections: func() int { return 7 }})
	x.packet(true, false, segment("10.0.0.1:1", "10.0.0.2:2", "before"))
	w.plane.commands <- &api.Command{Tap: 9, Capture: &api.Capture{SnapLength: 44}}
	w.eventually("packets are watched", x.watched)
	w.eventually("the first message", func() bool {
		w.plane.mu.Lock()
		defer w.plane.mu.Unlock()
		return len(w.plane.packs) == 1 && w.plane.packs[0].GetConnections() == 7 && w.plane.packs[0].GetTap() == 9
	})
	p := segment("10.0.0.1:1", "10.0.0.2:2", "hello")
	x.packet(true, false, p[:20], p[20:])
	clear(p) // it was borrowed
	x.packet(false, true, segment("10.0.0.2:5", "10.9.9.9:8086", "own"))
	x.packet(false, false, segment("10.9.9.9:8086", "10.0.0.2:5", "own"))
	x.packet(true, true, segment("10.9.9.9:8086", "10.0.0.2:5", "app")) // an app's is not ours
	x.packet(false, true, segment("[fd00::1]:5", "[fd00::2]:6", ""))
	x.packet(false, true, []byte{0x45})
	w.eventually("four packets", func() bool { list, _ := w.plane.packets(); return len(list) == 4 })
	want := []string{"true false 45 hell", "true true 43 app", "false true 60 \x00\x05\x00\x06", "false true 1 "}
	if list, lost := w.plane.packets(); !slices.Equal(list, want) || lost != 0 {
		t.Errorf("%q, %d lost", list, lost)
	}
	if w.hub.Active() {
		t.Error("requests are watched, too")
	}
	w.plane.commands <- &api.Command{Tap: 9}
	w.eventually("nobody watches", func() bool { return !x.watched() })
}

// A capture that nobody takes is bounded, and says what it lost.
func TestSlowCapture(t *testing.T) {
	w := newWorld(t, false)
	var x wires
	w.hub.SetPackets(tap.Packets{Watch: x.watch, Connections: func() int { return 0 }})
	w.plane.commands <- &api.Command{Tap: 1, Capture: &api.Capture{}}
	w.plane.commands <- &api.Command{Tap: 2, Capture: &api.Capture{SnapLength: 100}}
	w.plane.commands <- &api.Command{Tap: 3, Capture: &api.Capture{}} // one too many
	w.eventually("packets are watched", x.watched)
	const n = 400
	big := segment("10.0.0.1:1", "10.0.0.2:2", string(make([]byte, 60000)))
	for range n {
		x.packet(true, true, big) // 24 MB, of which 2 may wait
	}
	w.open() // it reads at last
	sum := func(tap uint64) (got, lost int) {
		w.plane.mu.Lock()
		defer w.plane.mu.Unlock()
		for _, m := range w.plane.packs {
			if m.GetTap() == tap {
				got, lost = got+len(m.GetPackets()), lost+int(m.GetLost())
			}
		}
		return got, lost
	}
	w.eventually("all are accounted for", func() bool {
		got, lost := sum(1)
		small, none := sum(2)
		return got+lost == n && lost > n/2 && got > 0 && small == n && none == 0
	})
	if got, lost := sum(3); got+lost != 0 {
		t.Errorf("a third capture got %d", got)
	}
	w.plane.leave <- nil
	w.eventually("the end of the stream ends captures", func() bool { return !x.watched() })
}
