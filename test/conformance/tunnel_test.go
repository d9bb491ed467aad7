package conformance_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// tunnelled is what goes through each tunnel, and comes back.
const tunnelled = 1 << 20

// testTunnels: CONNECT and Upgrade of HTTP/1 become bytes, with half-close.
func testTunnels(t *testing.T, p *pair) {
	port := p.port()
	l := p.listen(t, port)
	go serveTunnels(l)
	for _, tt := range []struct{ name, request, answer string }{
		{"CONNECT", "CONNECT far.example:443 HTTP/1.1\r\nHost: far.example:443\r\nX-A: b\r\n\r\n", "HTTP/1.1 200 Go On\r\nX-Heard: "},
		{"upgrade", "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: bytes/1\r\nX-A: b\r\nConnection: Upgrade\r\n\r\n", "HTTP/1.1 101 Go On\r\nUpgrade: bytes/1\r\nX-Heard: "},
	} {
		for _, early := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, early=%v", tt.name, early), func(t *testing.T) {
				c, err := p.dial(t.Context(), p.at(port))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(30 * time.Second))
				want := make([]byte, tunnelled)
				_, _ = new(pattern).Read(want)
				r := bufio.NewReader(c)
				send := func() {
					_, _ = c.Write(want)
					_ = c.(*net.TCPConn).CloseWrite()
				}
				if _, err := io.WriteString(c, tt.request); err != nil {
					t.Fatal(err)
				}
				if early { // bytes that do not wait for the answer
					go send()
				}
				head, err := readMessage(r, "HEAD")
				if err != nil || !strings.HasPrefix(head, tt.answer+fmt.Sprintf("%q", tt.request)) {
					t.Fatalf("%q, %v", head, err)
				}
				if !early {
					go send()
				}
				got, err := io.ReadAll(r)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes of %d came back: %v", len(got), len(want), err)
				}
			})
		}
	}
	t.Run("declined", func(t *testing.T) {
		const request = "CONNECT denied.example:1 HTTP/1.1\r\nHost: denied.example:1\r\n\r\n"
		if got := p.ask(t, port, request); got != "HTTP/1.1 403 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno" {
			t.Errorf("%q", got)
		}
		const upgrade = "GET /denied HTTP/1.1\r\nHost: a\r\nUpgrade: bytes/1\r\nConnection: Upgrade\r\n\r\n"
		if got := p.ask(t, port, upgrade); got != "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno" {
			t.Errorf("%q", got)
		}
	})
}

// serveTunnels echoes what goes through a tunnel, up to the end.
func serveTunnels(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			r := bufio.NewReader(c)
			for {
				request, err := readMessage(r, "")
				switch {
				case err != nil:
					return
				case strings.Contains(request, "denied"):
					_, _ = io.WriteString(c, "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
					continue
				case strings.HasPrefix(request, "CONNECT "):
					fmt.Fprintf(c, "HTTP/1.1 200 Go On\r\nX-Heard: %q\r\n\r\n", request)
				default:
					fmt.Fprintf(c, "HTTP/1.1 101 Go On\r\nConnection: Upgrade\r\nUpgrade: bytes/1\r\nX-Heard: %q\r\n\r\n", request)
				}
				_, _ = io.Copy(c, r)
				return
			}
		}()
	}
}

// frames is one end of an HTTP/2 connection, frame by frame: Go's library keeps
// extended CONNECT (RFC 8441) behind a setting of the process.
type frames struct {
	*http2.Framer
	conn net.Conn
	enc  bytes.Buffer
}

func newFrames(c net.Conn) *frames {
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	f := &frames{Framer: http2.NewFramer(c, c), conn: c}
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	return f
}

func (f *frames) head(stream uint32, end bool, nv ...string) error {
	f.enc.Reset()
	e := hpack.NewEncoder(&f.enc)
	e.SetMaxDynamicTableSize(0)
	for i := 0; i < len(nv); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: nv[i], Value: nv[i+1]})
	}
	return f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.enc.Bytes(), EndHeaders: true, EndStream: end})
}

// next is the next frame that says something, with settings and pings answered.
func (f *frames) next() (http2.Frame, error) {
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			return nil, err
		}
		switch fr := fr.(type) {
		case *http2.SettingsFrame:
			if !fr.IsAck() {
				if err := f.WriteSettingsAck(); err != nil {
					return nil, err
				}
			}
		case *http2.PingFrame:
			if !fr.IsAck() {
				if err := f.WritePing(true, fr.Data); err != nil {
					return nil, err
				}
			}
		case *http2.WindowUpdateFrame, *http2.PriorityFrame:
		default:
			return fr, nil
		}
	}
}

// serveExtended answers each CONNECT, extended or not, and echoes what comes.
func serveExtended(l net.Listener, settings ...http2.Setting) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
				return
			}
			f := newFrames(c)
			if f.WriteSettings(settings...) != nil {
				return
			}
			for {
				fr, err := f.next()
				if err != nil {
					return
				}
				switch fr := fr.(type) {
				case *http2.MetaHeadersFrame:
					err = f.head(fr.StreamID, false, ":status", "200", "x-protocol", fr.PseudoValue("protocol"), "x-target", fr.PseudoValue("authority")+fr.PseudoValue("path"))
				case *http2.DataFrame:
					err = f.WriteData(fr.StreamID, fr.StreamEnded(), fr.Data())
				}
				if err != nil {
					return
				}
			}
		}()
	}
}

// connect opens a tunnel on stream 1 and returns its answer, or the frame that
// came instead.
func (p *pair) connect(t *testing.T, port int, nv ...string) (*frames, http2.Frame) {
	t.Helper()
	c, err := p.dial(t.Context(), p.at(port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	f := newFrames(c)
	if _, err = io.WriteString(c, http2.ClientPreface); err == nil {
		err = f.WriteSettings()
	}
	if err == nil {
		err = f.head(1, false, nv...)
	}
	var fr http2.Frame
	if err == nil {
		fr, err = f.next()
	}
	if err != nil {
		t.Fatal(err)
	}
	return f, fr
}

// exchange sends through the tunnel and half-closes it, and wants the same back.
func (f *frames) exchange(t *testing.T) {
	t.Helper()
	want := make([]byte, 10_000)
	_, _ = new(pattern).Read(want)
	for _, end := range []bool{false, true} {
		if err := f.WriteData(1, end, want); err != nil {
			t.Fatal(err)
		}
	}
	var got []byte
	for {
		fr, err := f.next()
		d, ok := fr.(*http2.DataFrame)
		if err != nil || !ok {
			t.Fatalf("%v, %v after %d bytes", fr, err, len(got))
		}
		got = append(got, d.Data()...)
		if d.StreamEnded() {
			break
		}
	}
	if !bytes.Equal(got, append(want, want...)) {
		t.Errorf("%d bytes came back of %d", len(got), 2*len(want))
	}
}

// testConnectTranslated: an extended CONNECT becomes an upgrade of HTTP/1 for an
// app that does not take it: one of HTTP/2 without the setting, as Go's is, and
// one that knows HTTP/1 only.
func testConnectTranslated(t *testing.T, p *pair) {
	chat := []string{":method", "CONNECT", ":protocol", "bytes", ":scheme", "http", ":authority", "a.example", ":path", "/chat?x", "x-a", "b"}
	old := p.port()
	go serveTunnels(p.listen(t, old))
	both := p.port()
	serveHTTP2(t, p.listen(t, both), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer c.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Go On\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		_ = rw.Flush()
		_, _ = io.Copy(c, rw)
	}))
	for name, port := range map[string]int{"http1": old, "net-http": both} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // what was learned the first time holds
				f, fr := p.connect(t, port, chat...)
				if h, ok := fr.(*http2.MetaHeadersFrame); !ok || h.PseudoValue("status") != "200" {
					t.Fatalf("%v", fr)
				}
				f.exchange(t)
			}
		})
	}
	t.Run("declined", func(t *testing.T) {
		denied := append([]string{}, chat...)
		denied[9] = "/denied"
		_, fr := p.connect(t, old, denied...)
		if h, ok := fr.(*http2.MetaHeadersFrame); !ok || h.PseudoValue("status") != "403" {
			t.Errorf("%v", fr)
		}
	})
}

// testConnectHTTP2: CONNECT and extended CONNECT of HTTP/2 reach an app that
// takes them.
func testConnectHTTP2(t *testing.T, p *pair) {
	port := p.port()
	go serveExtended(p.listen(t, port), http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1})
	for _, tt := range []struct {
		name  string
		head  []string
		wants string
	}{
		{"CONNECT", []string{":method", "CONNECT", ":authority", "far.example:443"}, " far.example:443"},
		{"extended CONNECT", []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "a.example", ":path", "/chat?x"}, "websocket a.example/chat?x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, fr := p.connect(t, port, tt.head...)
			h, ok := fr.(*http2.MetaHeadersFrame)
			if !ok || h.PseudoValue("status") != "200" {
				t.Fatalf("%v", fr)
			}
			values := map[string]string{}
			for _, field := range h.RegularFields() {
				values[field.Name] = field.Value
			}
			if got := values["x-protocol"] + " " + values["x-target"]; got != tt.wants {
				t.Errorf("the app heard %q, want %q", got, tt.wants)
			}
			f.exchange(t)
		})
	}
}
