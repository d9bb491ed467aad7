package h2

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
	"github.com/tunmesh/tunmesh/tunproxy/hpack"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

// raw makes a frame of anything.
func raw(typ frame.Type, flags frame.Flags, stream uint32, payload string) []byte {
	b := frame.AppendHeader(nil, frame.Header{Length: len(payload), Type: typ, Flags: flags, Stream: stream})
	return append(b, payload...)
}

// verdict on a peer's behaviour.
type verdict struct {
	connection bool         // else one stream is reset
	code       message.Code // of GOAWAY or RST_STREAM
}

var (
	accepted  = (*verdict)(nil)
	connProto = &verdict{true, message.ProtocolError}
	connSize  = &verdict{true, message.FrameSizeError}
	connFlow  = &verdict{true, message.FlowControlError}
	connComp  = &verdict{true, message.CompressionError}
	connDone  = &verdict{true, message.StreamClosed}
	strmProto = &verdict{false, message.ProtocolError}
	strmSize  = &verdict{false, message.FrameSizeError}
	strmFlow  = &verdict{false, message.FlowControlError}
	strmDone  = &verdict{false, message.StreamClosed}
	strmNone  = &verdict{false, message.RefusedStream}
)

// judge compares the frames that a peer of ours sent with a verdict.
func judge(frames []string, v *verdict) error {
	all := strings.Join(frames, "; ")
	goAway, reset := strings.Contains(all, "GOAWAY"), strings.Contains(all, "RST_STREAM")
	switch {
	case v == nil && (goAway || reset):
		return fmt.Errorf("refused: %s", all)
	case v == nil:
		return nil
	case v.connection && !strings.Contains(all, fmt.Sprintf("code=%d ", v.code)):
		return fmt.Errorf("want GOAWAY %d, got %s", v.code, all)
	case !v.connection && (goAway || !strings.Contains(all+";", fmt.Sprintf(" %d;", v.code)) || !reset):
		return fmt.Errorf("want RST_STREAM %d, got %s", v.code, all)
	}
	return nil
}

// TestServerConformance sends a server what RFC 9113 has a rule for.
func TestServerConformance(t *testing.T) {
	pad := func(n int) string { return string([]byte{byte(n)}) }
	u32 := func(n uint32) string { return string([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) }
	set := func(id, v int) string { return string([]byte{byte(id >> 8), byte(id)}) + u32(uint32(v)) }
	type peer = *rawPeer
	openPost := func(p peer) { p.headers(1, false, postFields...) }
	with := func(base []string, kv ...string) func(peer) {
		return func(p peer) { p.headers(1, true, append(append([]string{}, base...), kv...)...) }
	}
	fields := func(kv ...string) func(peer) { return func(p peer) { p.headers(1, true, kv...) } }
	send := func(b ...[]byte) func(peer) {
		return func(p peer) {
			for _, b := range b {
				p.send(b)
			}
		}
	}
	after := func(first func(peer), b ...[]byte) func(peer) {
		return func(p peer) { first(p); send(b...)(p) }
	}
	get := fields(getFields...)

	for _, c := range []struct {
		clause, name string
		do           func(peer)
		want         *verdict
	}{
		{"4.1", "unknown frame type is ignored", send(raw(0x77, 0xff, 0, "whatever"), raw(0x77, 0, 9, "x")), accepted},
		{"4.1", "undefined flags are ignored", send(raw(frame.Ping, 0xfe, 0, "12345678")), accepted},
		{"4.1", "the reserved bit is ignored", send(raw(frame.Ping, 0, 1<<31, "12345678")), accepted},
		{"4.2", "DATA of 2^14 bytes", after(openPost, raw(frame.Data, 0, 1, strings.Repeat("x", 1<<14))), accepted},
		{"4.2", "DATA beyond SETTINGS_MAX_FRAME_SIZE", after(openPost, raw(frame.Data, 0, 1, strings.Repeat("x", 1<<14+1))), connSize},
		{"4.2", "HEADERS beyond SETTINGS_MAX_FRAME_SIZE", send(raw(frame.Headers, 5, 1, strings.Repeat("x", 1<<14+1))), connSize},
		{"4.3", "a block that can't be decoded", send(raw(frame.Headers, 5, 1, "\xff\xff\xff\xff\xff\xff")), connComp},
		{"4.3", "another frame inside a header block", send(raw(frame.Headers, 0, 1, "\x82"), raw(frame.Priority, 0, 1, "\x00\x00\x00\x00\x01")), connProto},
		{"4.3", "another stream inside a header block", send(raw(frame.Headers, 0, 1, "\x82"), raw(frame.Headers, 5, 3, "\x82")), connProto},
		{"5.1", "idle: DATA", send(raw(frame.Data, 1, 1, "x")), connProto},
		{"5.1", "idle: RST_STREAM", send(frame.AppendRST(nil, 1, message.Cancel)), connProto},
		{"5.1", "idle: WINDOW_UPDATE", send(frame.AppendWindowUpdate(nil, 1, 100)), connProto},
		{"5.1", "idle: CONTINUATION", send(raw(frame.Continuation, 4, 1, "\x82")), connProto},
		{"5.1", "idle: PRIORITY", send(raw(frame.Priority, 0, 1, u32(0)+"\x10")), accepted},
		{"5.1", "half-closed (remote): DATA", after(get, raw(frame.Data, 1, 1, "x")), strmDone},
		{"5.1", "half-closed (remote): HEADERS", func(p peer) { get(p); p.headers(1, true, "a", "b") }, strmDone},
		{"5.1", "half-closed (remote): CONTINUATION", after(get, raw(frame.Continuation, 4, 1, "\x82")), connProto},
		{"5.1", "half-closed (remote): WINDOW_UPDATE, PRIORITY", after(get, frame.AppendWindowUpdate(nil, 1, 9), raw(frame.Priority, 0, 1, u32(0)+"\x10")), accepted},
		{"5.1", "closed by RST_STREAM: DATA", after(openPost, frame.AppendRST(nil, 1, message.Cancel), raw(frame.Data, 1, 1, "x")), strmDone},
		{"5.1", "closed by RST_STREAM: HEADERS", func(p peer) {
			openPost(p)
			p.send(frame.AppendRST(nil, 1, message.Cancel))
			p.headers(1, true, "a", "b")
		}, strmDone},
		{"5.1", "closed by RST_STREAM: WINDOW_UPDATE, RST_STREAM", after(openPost, frame.AppendRST(nil, 1, message.Cancel), frame.AppendWindowUpdate(nil, 1, 9), frame.AppendRST(nil, 1, message.Cancel)), accepted},
		{"5.1", "closed by END_STREAM: DATA", func(p peer) { get(p); p.answer(); p.send(raw(frame.Data, 1, 1, "x")) }, connDone},
		{"5.1", "closed by END_STREAM: HEADERS", func(p peer) { get(p); p.answer(); p.headers(1, true, getFields...) }, connDone},
		{"5.1", "closed by END_STREAM: WINDOW_UPDATE", func(p peer) { get(p); p.answer(); p.send(frame.AppendWindowUpdate(nil, 1, 9)) }, accepted},
		{"5.1.1", "an even stream", func(p peer) { p.headers(2, true, getFields...) }, connProto},
		{"5.1.1", "a stream lower than one before", func(p peer) { p.headers(5, true, getFields...); p.headers(3, true, getFields...) }, connProto},
		{"5.1.2", "a stream beyond the limit", func(p peer) {
			for id := uint32(1); id <= 21; id += 2 {
				p.headers(id, false, postFields...)
			}
			p.send(frame.AppendRST(nil, 1, message.Cancel))
		}, strmNone},
		{"5.3", "HEADERS that depend on themselves", send(raw(frame.Headers, 0x25, 1, u32(1)+"\x10\x82\x86\x84\x41\x01a")), strmProto},
		{"5.3", "PRIORITY that depends on itself", after(openPost, raw(frame.Priority, 0, 1, u32(1)+"\x10")), strmProto},
		{"5.5", "unknown settings", send(raw(frame.Settings, 0, 0, set(0x99, 7))), accepted},
		{"6.1", "DATA on stream 0", send(raw(frame.Data, 1, 0, "x")), connProto},
		{"6.1", "DATA with padding", after(openPost, raw(frame.Data, frame.Padded|1, 1, pad(3)+"body\x00\x00\x00")), accepted},
		{"6.1", "DATA that is padding alone", after(openPost, raw(frame.Data, frame.Padded, 1, pad(3)+"\x00\x00\x00")), accepted},
		{"6.1", "DATA padded beyond its end", after(openPost, raw(frame.Data, frame.Padded, 1, pad(5)+"body")), connProto},
		{"6.1", "DATA padded without a pad length", after(openPost, raw(frame.Data, frame.Padded, 1, "")), connSize},
		{"6.2", "HEADERS on stream 0", send(raw(frame.Headers, 5, 0, "\x82\x86\x84")), connProto},
		{"6.2", "HEADERS with padding and priority", send(raw(frame.Headers, 0x2d, 1, pad(2)+u32(0)+"\x10\x82\x86\x84\x41\x01a\x00\x00")), accepted},
		{"6.2", "HEADERS padded beyond its end", send(raw(frame.Headers, 0xd, 1, pad(9)+"\x82\x86\x84")), connProto},
		{"6.2", "HEADERS too short for its priority", send(raw(frame.Headers, 0x25, 1, "\x00\x00")), connSize},
		{"6.3", "PRIORITY on stream 0", send(raw(frame.Priority, 0, 0, u32(3)+"\x10")), connProto},
		{"6.3", "PRIORITY of 4 bytes", after(openPost, raw(frame.Priority, 0, 1, u32(0))), strmSize},
		{"6.4", "RST_STREAM on stream 0", send(frame.AppendRST(nil, 0, message.Cancel)), connProto},
		{"6.4", "RST_STREAM of 3 bytes", after(openPost, raw(frame.RSTStream, 0, 1, "abc")), connSize},
		{"6.5", "SETTINGS on a stream", send(raw(frame.Settings, 0, 1, set(3, 7))), connProto},
		{"6.5", "SETTINGS of 7 bytes", send(raw(frame.Settings, 0, 0, set(3, 7)+"x")), connSize},
		{"6.5", "SETTINGS acknowledgement with a payload", send(raw(frame.Settings, frame.Ack, 0, set(3, 7))), connSize},
		{"6.5.2", "ENABLE_PUSH of 2", send(raw(frame.Settings, 0, 0, set(2, 2))), connProto},
		{"6.5.2", "INITIAL_WINDOW_SIZE of 2^31", send(raw(frame.Settings, 0, 0, set(4, 1<<31))), connFlow},
		{"6.5.2", "MAX_FRAME_SIZE of 2^14-1", send(raw(frame.Settings, 0, 0, set(5, 1<<14-1))), connProto},
		{"6.5.2", "MAX_FRAME_SIZE of 2^24", send(raw(frame.Settings, 0, 0, set(5, 1<<24))), connProto},
		{"6.6", "PUSH_PROMISE from a client", send(raw(frame.PushPromise, 4, 1, u32(2)+"\x82\x86\x84")), connProto},
		{"6.7", "PING on a stream", send(raw(frame.Ping, 0, 1, "12345678")), connProto},
		{"6.7", "PING of 6 bytes", send(raw(frame.Ping, 0, 0, "123456")), connSize},
		{"6.8", "GOAWAY on a stream", send(raw(frame.GoAway, 0, 1, u32(0)+u32(0))), connProto},
		{"6.8", "GOAWAY of 7 bytes", send(raw(frame.GoAway, 0, 0, "1234567")), connSize},
		{"6.8", "GOAWAY", after(get, frame.AppendGoAway(nil, 0, message.NoError, "bye")), accepted},
		{"6.9", "WINDOW_UPDATE of 0 on the connection", send(frame.AppendWindowUpdate(nil, 0, 0)), connProto},
		{"6.9", "WINDOW_UPDATE of 0 on a stream", after(openPost, frame.AppendWindowUpdate(nil, 1, 0)), strmProto},
		{"6.9", "WINDOW_UPDATE of 3 bytes", send(raw(frame.WindowUpdate, 0, 0, "abc")), connSize},
		{"6.9.1", "a connection's window above 2^31-1", send(frame.AppendWindowUpdate(nil, 0, frame.MaxWindow)), connFlow},
		{"6.9.1", "a stream's window above 2^31-1", after(openPost, frame.AppendWindowUpdate(nil, 1, frame.MaxWindow)), strmFlow},
		{"6.9.1", "a stream's window above 2^31-1 by SETTINGS", after(openPost, frame.AppendWindowUpdate(nil, 1, frame.MaxWindow-65535), raw(frame.Settings, 0, 0, set(4, 65536))), connFlow},
		{"6.9", "DATA beyond a stream's window", func(p peer) {
			p.lazy = true
			openPost(p)
			for range 5 {
				p.send(raw(frame.Data, 0, 1, strings.Repeat("x", 1<<14)))
			}
		}, strmFlow},
		{"6.10", "CONTINUATION", send(raw(frame.Headers, 1, 1, "\x82\x86"), raw(frame.Continuation, 0, 1, "\x84"), raw(frame.Continuation, 4, 1, "\x41\x01a")), accepted},
		{"6.10", "CONTINUATION after END_HEADERS", after(openPost, raw(frame.Continuation, 4, 1, "\x82")), connProto},
		{"6.10", "CONTINUATION on stream 0", send(raw(frame.Headers, 1, 1, "\x82"), raw(frame.Continuation, 4, 0, "\x86")), connProto},
		{"8.1", "trailers", func(p peer) { openPost(p); p.headers(1, true, "x-sum", "1") }, accepted},
		{"8.1", "trailers that don't end the stream", func(p peer) { openPost(p); p.headers(1, false, "x-sum", "1") }, strmProto},
		{"8.1", "trailers with a pseudo-header field", func(p peer) { openPost(p); p.headers(1, true, ":method", "GET") }, strmProto},
		{"8.1.1", "Content-Length and body agree", func(p peer) {
			p.headers(1, false, append(postFields[:8:8], "content-length", "4")...)
			p.send(raw(frame.Data, 0, 1, "bo"))
			p.send(raw(frame.Data, 1, 1, "dy"))
		}, accepted},
		{"8.1.1", "body shorter than Content-Length", func(p peer) {
			p.headers(1, false, append(postFields[:8:8], "content-length", "5")...)
			p.send(raw(frame.Data, 1, 1, "body"))
		}, strmProto},
		{"8.1.1", "body longer than Content-Length", func(p peer) {
			p.headers(1, false, append(postFields[:8:8], "content-length", "1")...)
			p.send(raw(frame.Data, 1, 1, "body"))
		}, strmProto},
		{"8.1.1", "trailers before Content-Length is reached", func(p peer) {
			p.headers(1, false, append(postFields[:8:8], "content-length", "1")...)
			p.headers(1, true, "a", "b")
		}, strmProto},
		{"8.1.1", "Content-Length and no body", with(postFields, "content-length", "4"), strmProto},
		{"8.1.1", "two Content-Lengths", with(postFields, "content-length", "0", "content-length", "0"), strmProto},
		{"8.1.1", "a Content-Length with a sign", with(postFields, "content-length", "+0"), strmProto},
		{"8.1.1", "a list of Content-Lengths", with(postFields, "content-length", "0, 0"), strmProto},
		{"8.2.1", "upper case in a name", with(getFields, "X-Upper", "x"), strmProto},
		{"8.2.1", "a space in a name", with(getFields, "x y", "x"), strmProto},
		{"8.2.1", "a colon in a name", with(getFields, "x:y", "x"), strmProto},
		{"8.2.1", "an empty name", with(getFields, "", "x"), strmProto},
		{"8.2.1", "DEL in a name", with(getFields, "x\x7f", "x"), strmProto},
		{"8.2.1", "a high byte in a name", with(getFields, "x\xc3\xa9", "x"), strmProto},
		{"8.2.1", "NUL in a value", with(getFields, "x", "a\x00b"), strmProto},
		{"8.2.1", "CR in a value", with(getFields, "x", "a\rb"), strmProto},
		{"8.2.1", "LF in a value", with(getFields, "x", "a\nb"), strmProto},
		{"8.2.1", "CRLF and a field in a value", with(getFields, "x", "a\r\nx-injected: 1"), strmProto},
		{"8.2.1", "a space before a value", with(getFields, "x", " a"), strmProto},
		{"8.2.1", "a tab behind a value", with(getFields, "x", "a\t"), strmProto},
		{"8.2.1", "a tab and high bytes in a value", with(getFields, "x", "a\t\xc3\xa9"), accepted},
		{"8.2.2", "Connection", with(getFields, "connection", "keep-alive"), strmProto},
		{"8.2.2", "Keep-Alive", with(getFields, "keep-alive", "5"), strmProto},
		{"8.2.2", "Proxy-Connection", with(getFields, "proxy-connection", "x"), strmProto},
		{"8.2.2", "Transfer-Encoding", with(getFields, "transfer-encoding", "chunked"), strmProto},
		{"8.2.2", "Upgrade", with(getFields, "upgrade", "websocket"), strmProto},
		{"8.2.2", "TE that is not trailers", with(getFields, "te", "trailers, deflate"), strmProto},
		{"8.2.2", "TE: trailers", with(getFields, "te", "trailers"), accepted},
		{"8.2.3", "cookie crumbs", with(getFields, "cookie", "a=b", "cookie", "c=d"), accepted},
		{"8.3", "an unknown pseudo-header field", with(getFields, ":test", "x"), strmProto},
		{"8.3", "a pseudo-header field of responses", with(getFields, ":status", "200"), strmProto},
		{"8.3", "a pseudo-header field after a regular one", fields(":method", "GET", ":scheme", "http", "x", "y", ":path", "/"), strmProto},
		{"8.3", "a pseudo-header field after Host", fields(":method", "GET", ":scheme", "http", "host", "y", ":path", "/"), strmProto},
		{"8.3", "a pseudo-header field twice", with(getFields, ":path", "/other"), strmProto},
		{"8.3.1", "no :method", fields(":scheme", "http", ":path", "/"), strmProto},
		{"8.3.1", "no :scheme", fields(":method", "GET", ":path", "/"), strmProto},
		{"8.3.1", "no :path", fields(":method", "GET", ":scheme", "http"), strmProto},
		{"8.3.1", "an empty :path", fields(":method", "GET", ":scheme", "http", ":path", ""), strmProto},
		{"8.3.1", "an empty :method", fields(":method", "", ":scheme", "http", ":path", "/"), strmProto},
		{"8.3.1", "a :method that is no token", fields(":method", "GET /x", ":scheme", "http", ":path", "/"), strmProto},
		{"8.3.1", "a :path with a space", fields(":method", "GET", ":scheme", "http", ":path", "/ HTTP/1.1"), strmProto},
		{"8.3.1", "a :path without a slash", fields(":method", "GET", ":scheme", "http", ":path", "x"), strmProto},
		{"8.3.1", "an asterisk", fields(":method", "OPTIONS", ":scheme", "http", ":path", "*"), accepted},
		{"8.3.1", "an asterisk that is not OPTIONS", fields(":method", "GET", ":scheme", "http", ":path", "*"), strmProto},
		{"8.3.1", "userinfo in :authority", fields(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "me@emoji"), strmProto},
		{"8.3.1", "a path in :authority", fields(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "emoji/x"), strmProto},
		{"8.3.1", "a bad :scheme", fields(":method", "GET", ":scheme", "ht tp", ":path", "/"), strmProto},
		{"8.3.1", "Host alone", fields(":method", "GET", ":scheme", "http", ":path", "/", "host", "emoji"), accepted},
		{"8.3.1", "Host that agrees", with(getFields, "host", "EMOJI"), accepted},
		{"8.3.1", "Host that differs from :authority", with(getFields, "host", "other"), strmProto},
		{"8.3.1", "two Hosts", fields(":method", "GET", ":scheme", "http", ":path", "/", "host", "a", "host", "a"), strmProto},
		{"8.5", "CONNECT", func(p peer) { p.headers(1, false, ":method", "CONNECT", ":authority", "emoji:80") }, accepted},
		{"8.5", "CONNECT with :path", func(p peer) { p.headers(1, false, ":method", "CONNECT", ":authority", "emoji:80", ":path", "/") }, strmProto},
		{"8.5", "CONNECT with :scheme", func(p peer) { p.headers(1, false, ":method", "CONNECT", ":authority", "emoji:80", ":scheme", "http") }, strmProto},
		{"8.5", "CONNECT without :authority", func(p peer) { p.headers(1, false, ":method", "CONNECT") }, strmProto},
		{"RFC 8441", ":protocol that was not enabled", func(p peer) {
			p.headers(1, false, ":method", "CONNECT", ":scheme", "http", ":path", "/", ":authority", "emoji", ":protocol", "websocket")
		}, strmProto},
		{"RFC 8441", ":protocol without CONNECT", with(getFields, ":protocol", "websocket"), strmProto},
	} {
		t.Run(c.clause+" "+c.name, func(t *testing.T) {
			p := rawClient(t, Config{MaxStreams: 10}, nil)
			c.do(p)
			if err := judge(p.frames(), c.want); err != nil {
				t.Error(err)
			}
			if c.want != nil && c.want.connection {
				if len(p.closed) != 1 || p.closed[0] == nil || p.count.ProtocolErrors.Load() != 1 {
					t.Errorf("told %v, counted %d", p.closed, p.count.ProtocolErrors.Load())
				}
				p.loop.Advance(t, 2*time.Second)
				if !p.conn.EOF() && !p.conn.WasReset() {
					t.Error("the transport is still open")
				}
				return
			}
			// The connection lives and its tables are in step.
			p.headers(101, true, append(getFields[:8:8], "x-again", "yes")...)
			last := p.got[len(p.got)-1].heads[0]
			if v, _ := last.Get("x-again"); v != "yes" {
				t.Errorf("the next request is %+v", last)
			}
		})
	}
}

// answer ends the response of every stream that awaits one.
func (p *rawPeer) answer() {
	p.Helper()
	for _, s := range p.server.streams.slots {
		if s != nil && !s.localEnd {
			s.SendHead(&message.Head{Status: 200}, true)
		}
	}
	p.frames()
}

func TestPreface(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes string
		code  string
	}{
		{"HTTP/1", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "code=1"},
		{"no SETTINGS", frame.Preface + string(frame.AppendPing(nil, false, 1)), "code=1"},
		{"an acknowledgement first", frame.Preface + string(frame.AppendSettingsAck(nil)), "code=1"},
	} {
		p := newPeer(t)
		ours, theirs := pipe(p)
		p.conn = theirs
		NewServer(ours, Config{}, func(message.Stream) {})
		p.send([]byte(c.bytes))
		if got := strings.Join(p.frames(), "; "); !strings.Contains(got, c.code) {
			t.Errorf("%s: %s", c.name, got)
		}
	}
	// A byte at a time, and then a request.
	p := newPeer(t)
	ours, theirs := pipe(p)
	p.conn = theirs
	r := &recorder{}
	NewServer(ours, Config{}, func(s message.Stream) { s.SetReceiver(r) })
	all := append([]byte(frame.Preface), frame.AppendSettings(nil)...)
	all = frame.AppendHeaders(all, 1, p.block(postFields...), false, 5)
	all = append(all, raw(frame.Data, frame.Padded, 1, "\x03body\x00\x00\x00")...)
	all = frame.AppendData(all, 1, []byte("more"), true)
	for i := range all {
		p.send(all[i : i+1])
	}
	if len(r.heads) != 1 || r.heads[0].Method != "POST" || r.body.String() != "bodymore" || !r.ended {
		t.Errorf("%+v, frames %q", r, p.frames())
	}
}

// TestClientConformance sends a client what servers may not.
func TestClientConformance(t *testing.T) {
	type peer = *rawPeer
	head := func(kv ...string) func(peer) { return func(p peer) { p.headers(1, true, kv...) } }
	for _, c := range []struct {
		clause, name string
		do           func(peer)
		want         *verdict
	}{
		{"5.1.1", "HEADERS on a stream that was not opened", func(p peer) { p.headers(3, true, ":status", "200") }, connProto},
		{"5.1.1", "HEADERS on a stream of its own", func(p peer) { p.headers(2, true, ":status", "200") }, connProto},
		{"6.5.2", "a server that enables push", func(p peer) { p.send(frame.AppendSettings(nil, frame.Setting{ID: frame.EnablePush, Value: 1})) }, connProto},
		{"6.6", "PUSH_PROMISE", func(p peer) { p.send(raw(frame.PushPromise, 4, 1, "\x00\x00\x00\x02\x82\x86\x84")) }, connProto},
		{"8.1", "DATA before the head", func(p peer) { p.send(raw(frame.Data, 1, 1, "x")) }, strmProto},
		{"8.1", "an informational response that ends the stream", head(":status", "103"), strmProto},
		{"8.3.2", "no :status", head("a", "b"), strmProto},
		{"8.3.2", "two :status", head(":status", "200", ":status", "200"), strmProto},
		{"8.3.2", ":status of two digits", head(":status", "20"), strmProto},
		{"8.3.2", ":status of letters", head(":status", "2o0"), strmProto},
		{"8.3.2", "a pseudo-header field of requests", head(":status", "200", ":path", "/"), strmProto},
		{"8.6", "101", head(":status", "101"), strmProto},
		{"8.2.2", "Connection", head(":status", "200", "connection", "close"), strmProto},
		{"8.2.1", "LF in a value", head(":status", "200", "x", "a\nb"), strmProto},
		{"8.1", "two final heads", func(p peer) { p.headers(1, false, ":status", "200"); p.headers(1, true, ":status", "200") }, strmProto},
		{"RFC 8441", "extended CONNECT withdrawn", func(p peer) {
			p.send(frame.AppendSettings(nil, frame.Setting{ID: frame.EnableConnectProtocol, Value: 1}))
			p.send(frame.AppendSettings(nil, frame.Setting{ID: frame.EnableConnectProtocol, Value: 0}))
		}, connProto},
		{"8.1", "a response", head(":status", "200"), accepted},
	} {
		t.Run(c.clause+" "+c.name, func(t *testing.T) {
			p := rawServer(t, Config{})
			s, err := p.client.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			r := &recorder{}
			s.SetReceiver(r)
			s.SendHead(get("/"), true)
			p.frames()
			c.do(p)
			if err := judge(p.frames(), c.want); err != nil {
				t.Error(err)
			}
			if r.aborted != (c.want != nil) || r.aborted && r.err == nil {
				t.Errorf("aborted %v, %v", r.aborted, r.err)
			}
		})
	}
}

// TestOddHeads: what a proxy's other side may hand us is sent well-formed.
func TestOddHeads(t *testing.T) {
	p := rawServer(t, Config{})
	var got []string
	p.dec = hpack.NewDecoder(hpack.NewInterner(), hpack.NewClassifier(func(name, value string) uint8 { return 0 }))
	open := func(h *message.Head) {
		s, err := p.client.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		s.SetReceiver(&recorder{})
		s.SendHead(h, true)
		got = append(got, p.frames()...)
	}
	h := get("")
	h.Fields = []message.Field{{Name: "Host", Value: "x"}, {Name: "TE", Value: "gzip"}, {Name: "Keep-Alive", Value: "1"}, {Name: "Upgrade", Value: "h2c"}, {Name: "Transfer-Encoding", Value: "chunked"}, {Name: "Proxy-Connection", Value: "1"}, {Name: "X-A", Value: "1"}, {Name: ":evil", Value: "1"}}
	open(h)
	open(&message.Head{Method: "OPTIONS", Authority: "a"})
	open(&message.Head{Method: "CONNECT", Authority: "a:1", Path: "ignored"})
	want := "HEADERS 1 path=/ x-a=1 end|HEADERS 3 path=* end|HEADERS 5 end"
	if strings.Join(got, "|") != want {
		t.Errorf("got %q", got)
	}
}

func TestLongHeads(t *testing.T) {
	w := newWorld(t, Config{}, Config{}, 0)
	s, r := w.open()
	h := get("/" + strings.Repeat("p", 20000))
	h.Fields = []message.Field{{Name: "x-long", Value: strings.Repeat("{", 30000)}, {Name: "x-tail", Value: "t"}}
	s.SendHead(h, true)
	w.run()
	if len(w.received) != 1 || w.received[0].heads[0].Path != h.Path || text(w.received[0].heads[0].Fields) != text(h.Fields) {
		t.Fatal("the head did not arrive whole")
	}
	if r.aborted {
		t.Error(r.err)
	}
}

// TestCuts: header blocks of any length are cut and mended.
func TestCuts(t *testing.T) {
	block := make([]byte, 100)
	for i := range block {
		block[i] = byte(i)
	}
	for n := 0; n <= len(block); n++ {
		for size := 1; size < 40; size++ {
			b := frame.AppendHeaders([]byte("before"), 7, block[:n], true, size)[6:]
			var got []byte
			for i := 0; len(b) > 0; i++ {
				h, payload, rest, ok, err := frame.Split(b, size)
				if !ok || err != nil || h.Stream != 7 || (h.Type == frame.Headers) != (i == 0) || h.Flags.Has(frame.EndHeaders) != (len(rest) == 0) {
					t.Fatalf("%d by %d: frame %d is %+v, %v %v", n, size, i, h, ok, err)
				}
				got, b = append(got, payload...), rest
			}
			if !bytes.Equal(got, block[:n]) {
				t.Fatalf("%d by %d: got %x", n, size, got)
			}
		}
	}
}
