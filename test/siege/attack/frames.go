package attack

import (
	"strings"

	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/hpack"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// Frames makes what an HTTP/2 client sends. Bytes is what was made so far, Next the
// id of its next stream.
type Frames struct {
	Bytes []byte
	Next  uint32
	enc   *hpack.Encoder
}

// Begin is a connection with its preface.
func Begin(settings ...frame.Setting) *Frames {
	return &Frames{
		Bytes: frame.AppendSettingsAck(frame.AppendSettings([]byte(frame.Preface), settings...)),
		Next:  1, enc: hpack.NewEncoder(4096),
	}
}

// Headers opens a stream; kv are fields and their values, of which ":path" may be
// the first.
func (f *Frames) Headers(end bool, method string, kv ...string) (id uint32) {
	path := "/"
	if len(kv) > 0 && kv[0] == ":path" {
		path, kv = kv[1], kv[2:]
	}
	block := f.enc.Begin(nil)
	for _, p := range [][2]string{{":method", method}, {":scheme", "http"}, {":path", path}, {":authority", "b"}} {
		block = f.enc.Append(block, p[0], p[1], hpack.Without)
	}
	for i := 0; i < len(kv); i += 2 {
		block = f.enc.Append(block, kv[i], kv[i+1], hpack.Auto)
	}
	return f.block(block, end)
}

// block opens a stream with a header block.
func (f *Frames) block(block []byte, end bool) (id uint32) {
	id = f.Next
	f.Next += 2
	f.Bytes = frame.AppendHeaders(f.Bytes, id, block, end, frame.MinMaxSize)
	return id
}

// Raw appends any frame.
func (f *Frames) Raw(t frame.Type, flags frame.Flags, id uint32, payload string) {
	f.Bytes = append(frame.AppendHeader(f.Bytes, frame.Header{Length: len(payload), Type: t, Flags: flags, Stream: id}), payload...)
}

// Resets are n requests, each taken back at once.
func Resets(n int) []byte {
	f := Begin()
	for range n {
		f.Bytes = frame.AppendRST(f.Bytes, f.Headers(true, "GET"), message.Cancel)
	}
	return f.Bytes
}

// Wide are n requests of 500 fields each, all but one as given, encoded. The first
// puts that one into the table.
func Wide(n int, field string) []byte {
	f := Begin()
	for i := range n {
		one := "\x00\x01a\x01b"
		if i == 0 {
			one = "\x40\x01a\x01b"
		}
		f.block([]byte("\x82\x86\x84\x01\x01b"+one+strings.Repeat(field, 499)), true)
	}
	return f.Bytes
}

// Requests are n of them on one connection.
func Requests(n int, end bool, settings []frame.Setting, kv ...string) []byte {
	f := Begin(settings...)
	method := "GET"
	if !end {
		method = "POST"
	}
	for range n {
		f.Headers(end, method, kv...)
	}
	return f.Bytes
}
