package attack

import (
	"bytes"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/hpack"
)

const (
	tick = 20 * time.Millisecond
	// cut is for attackers whom the sidecar cuts off long before they give up.
	cut = 5 * time.Second
)

func broken(why string) []string { return []string{`reason="` + why + `"`} }

// Floods are what one client sends in masses: 50 connections a second begin.
func Floods() []Attack {
	u32 := func(n uint32) string { return string([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) }
	bomb := strings.Repeat("b", 3900)
	var all []Attack
	add := func(name, metric string, labels []string, gives time.Duration, fill func(f *Frames)) {
		f := Begin()
		fill(f)
		all = append(all, Attack{Name: name, Metric: metric, Labels: labels, Replay: Replay{Bytes: f.Bytes, Every: tick, AtOnce: 8, Gives: gives}})
	}
	add("rapid reset", "http2_broken_total", broken("resets"), cut, func(f *Frames) { f.Bytes = Resets(3000) })
	add("MadeYouReset by a window update of 0", "http2_broken_total", broken("resets"), cut, func(f *Frames) {
		for range 3000 {
			id := f.Headers(true, "GET")
			f.Bytes = frame.AppendWindowUpdate(f.Bytes, id, 0)
		}
	})
	add("MadeYouReset by DATA after the end", "http2_broken_total", broken("resets"), cut, func(f *Frames) {
		for range 3000 {
			id := f.Headers(true, "GET")
			f.Bytes = frame.AppendData(f.Bytes, id, []byte("x"), true)
		}
	})
	add("MadeYouReset by a self-dependency", "http2_broken_total", broken("control frames"), cut, func(f *Frames) {
		for range 3000 {
			id := f.Headers(true, "GET")
			f.Raw(frame.Priority, 0, id, u32(id)+"\x01")
		}
	})
	add("CONTINUATION", "http2_broken_total", broken("continuations"), cut, func(f *Frames) {
		f.Raw(frame.Headers, 0, 1, "\x82\x86\x84")
		for range 3000 {
			f.Raw(frame.Continuation, 0, 1, "\x00\x01a\x01b")
		}
	})
	add("SETTINGS", "http2_broken_total", broken("control frames"), cut, func(f *Frames) {
		for range 5000 {
			f.Bytes = frame.AppendSettings(f.Bytes)
		}
	})
	add("PING", "http2_broken_total", broken("control frames"), cut, func(f *Frames) {
		for range 5000 {
			f.Bytes = frame.AppendPing(f.Bytes, false, 1)
		}
	})
	add("PRIORITY", "http2_broken_total", broken("control frames"), cut, func(f *Frames) {
		for range 5000 {
			f.Raw(frame.Priority, 0, 99, u32(1)+"\x01")
		}
	})
	add("empty DATA", "http2_broken_total", broken("empty frames"), cut, func(f *Frames) {
		id := f.Headers(false, "POST")
		for range 5000 {
			f.Bytes = frame.AppendData(f.Bytes, id, nil, false)
		}
	})
	add("DATA of a byte", "http2_paused_total", nil, tick, func(f *Frames) {
		id := f.Headers(false, "POST")
		for range 20_000 {
			f.Bytes = frame.AppendData(f.Bytes, id, []byte("x"), false)
		}
	})
	add("HPACK bombs", "http2_broken_total", broken("header bombs"), cut, func(f *Frames) {
		for i := range 50 {
			block := f.enc.Begin(nil)
			for _, p := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", "/"}, {":authority", "b"}} {
				block = f.enc.Append(block, p[0], p[1], hpack.Without)
			}
			if i == 0 {
				block = f.enc.Append(block, "x-bomb", bomb, hpack.Always)
			} else {
				block = append(block, bytes.Repeat([]byte{0x80 | 62}, 14_000)...) // what was indexed last
			}
			f.block(block, true)
		}
	})
	add("header lists that are too large", "http2_oversize_total", nil, tick, func(f *Frames) {
		for i := range 5 {
			f.Headers(true, "GET", "x-a", strings.Repeat(string(rune('A'+i)), 40_000), "x-b", strings.Repeat("b", 40_000))
		}
	})
	for _, h := range []struct{ name, field string }{{"heads of 500 fields", "\x00\x01c\x01d"}, {"heads of 500 fields of a byte", "\xbe"}} {
		add(h.name, "http2_paused_total", nil, cut, func(f *Frames) { f.Bytes = Wide(3000, h.field) })
	}
	all = append(all, Attack{Name: "heads of 500 fields on 64 connections", Metric: "http2_paused_total",
		Replay: Replay{Bytes: Wide(1000, "\x00\x01c\x01d"), Begin: 8, Every: tick, AtOnce: 64, Gives: cut}})
	return append(all, tinyWindows())
}

func tinyWindows() Attack {
	f := Begin(frame.Setting{ID: frame.InitialWindowSize, Value: 1})
	for range 50 {
		f.Headers(true, "GET", ":path", "/large")
	}
	var then []byte
	for id := uint32(1); id < f.Next; id += 2 {
		then = frame.AppendWindowUpdate(then, id, 1)
	}
	return Attack{Name: "tiny windows", Metric: "http2_broken_total", Labels: broken("empty frames"), App: App{Bytes: 4 << 10},
		Replay: Replay{Bytes: f.Bytes, Then: then, Gap: 500 * time.Microsecond, Every: tick, AtOnce: 8, Gives: cut}}
}
