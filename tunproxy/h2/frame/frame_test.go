package frame

import (
	"bytes"
	"errors"
	"testing"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// TestRoundTrip reads back what the Append functions write.
func TestRoundTrip(t *testing.T) {
	var b []byte
	b = AppendData(b, 5, []byte("body"), true)
	b = AppendHeaders(b, 7, []byte("fragment"), true, 5)
	b = AppendRST(b, 9, message.Cancel)
	b = AppendSettings(b, Setting{InitialWindowSize, 70000}, Setting{MaxFrameSize, 1 << 15})
	b = AppendSettingsAck(b)
	b = AppendPing(b, true, 0x0102030405060708)
	b = AppendGoAway(b, 11, message.EnhanceYourCalm, "calm")
	b = AppendWindowUpdate(b, 0, 1000)
	next := func(want Header) []byte {
		t.Helper()
		h, p, rest, ok, err := Split(b, MinMaxSize)
		if !ok || err != nil || h != want || CheckHeader(h) != nil {
			t.Fatalf("%+v %v %v, want %+v", h, ok, err, want)
		}
		b = rest
		return p
	}
	if p := next(Header{4, Data, EndStream, 5}); string(p) != "body" {
		t.Errorf("%q", p)
	}
	if p := next(Header{5, Headers, EndStream, 7}); string(p) != "fragm" {
		t.Errorf("%q", p)
	}
	if p := next(Header{3, Continuation, EndHeaders, 7}); string(p) != "ent" {
		t.Errorf("%q", p)
	}
	if p := next(Header{4, RSTStream, 0, 9}); ParseCode(p) != message.Cancel {
		t.Errorf("%q", p)
	}
	if p := next(Header{12, Settings, 0, 0}); SettingAt(p, 0) != (Setting{InitialWindowSize, 70000}) || SettingAt(p, 1) != (Setting{MaxFrameSize, 1 << 15}) {
		t.Errorf("%q", p)
	}
	next(Header{0, Settings, Ack, 0})
	if p := next(Header{8, Ping, Ack, 0}); ParsePing(p) != 0x0102030405060708 {
		t.Errorf("%q", p)
	}
	last, code, debug := ParseGoAway(next(Header{12, GoAway, 0, 0}))
	if last != 11 || code != message.EnhanceYourCalm || string(debug) != "calm" {
		t.Errorf("%d %d %q", last, code, debug)
	}
	if p := next(Header{4, WindowUpdate, 0, 0}); ParseWindow(p) != 1000 || len(b) != 0 {
		t.Errorf("%q", p)
	}
}

func TestSplitLimits(t *testing.T) {
	whole := AppendData(nil, 1, []byte("0123456789"), false)
	for n := range whole {
		if _, _, rest, ok, err := Split(whole[:n], 10); ok || err != nil || len(rest) != n {
			t.Errorf("%d bytes: %v %v", n, ok, err)
		}
	}
	_, _, _, _, err := Split(whole[:HeaderLen], 9)
	var e *Error
	if !errors.As(err, &e) || e.Code != message.FrameSizeError {
		t.Errorf("%v", err)
	}
}

// FuzzPayloads: no payload makes a parser read outside of it.
func FuzzPayloads(f *testing.F) {
	f.Add(AppendData(nil, 1, []byte("x"), true))
	f.Add(AppendHeaders(nil, 1, []byte{0x82}, true, MinMaxSize))
	f.Add([]byte("\x00\x00\x08\x00\x09\x00\x00\x00\x01\x03body\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x07\x01\x2d\x00\x00\x00\x01\x01\x00\x00\x00\x01\x10\x00"))
	f.Add(AppendGoAway(AppendSettings(nil, Setting{MaxFrameSize, 1}), 1, 2, "debug"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for {
			h, p, rest, ok, err := Split(b, MinMaxSize)
			if err != nil || !ok {
				return
			}
			again := append(AppendHeader(nil, h), p...)
			if want := b[:HeaderLen+h.Length]; !bytes.Equal(again[:5], want[:5]) || !bytes.Equal(again[6:], want[6:]) { // but the reserved bit
				t.Fatalf("%x becomes %x", want, again)
			}
			b = rest
			if CheckHeader(h) != nil {
				continue
			}
			inside := func(part []byte) {
				if len(part) > len(p) || len(part) > 0 && !bytes.Contains(p, part) {
					t.Fatalf("%x is not in %x", part, p)
				}
			}
			switch h.Type {
			case Data:
				part, _ := ParseData(h, p)
				inside(part)
			case Headers:
				part, _, _ := ParseHeaders(h, p)
				inside(part)
			case Settings:
				for i := range len(p) / 6 {
					_ = SettingAt(p, i).Check()
				}
			case RSTStream:
				ParseCode(p)
			case Ping:
				ParsePing(p)
			case WindowUpdate:
				ParseWindow(p)
			case GoAway:
				_, _, debug := ParseGoAway(p)
				inside(debug)
			}
		}
	})
}
