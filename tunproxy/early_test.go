package tunproxy_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestClientsThatStopAtAnEarlyResponse: curl ends an upload short of its
// Content-Length as soon as it sees a status from 300 on. The response's body,
// which comes later, is for it all the same.
func TestClientsThatStopAtAnEarlyResponse(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod("a", "10.0.0.1"), w.pod("b", "10.0.0.2")
	w.service("10.96.0.1:80", "10.0.0.2:80=b")
	stopped := make(chan struct{})
	b.serveHTTP(80, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Length", "3")
		rw.WriteHeader(http.StatusRequestEntityTooLarge)
		_ = http.NewResponseController(rw).Flush()
		<-stopped
		_, _ = io.WriteString(rw, "no\n")
	})
	c := a.host.dial("10.96.0.1:80")
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, x := range [][2]string{{":method", "PUT"}, {":scheme", "http"}, {":path", "/"}, {":authority", "x"}, {"content-length", "4000000"}} {
		if err := enc.WriteField(hpack.HeaderField{Name: x[0], Value: x[1]}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteData(1, false, make([]byte, 16384)); err != nil {
		t.Fatal(err)
	}
	body := ""
	for ended := false; !ended; {
		fr, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch fr := fr.(type) {
		case *http2.MetaHeadersFrame:
			if got := fr.PseudoValue("status"); got != "413" {
				t.Fatalf("status %s", got)
			}
			if err := f.WriteData(1, true, nil); err != nil {
				t.Fatal(err)
			}
			// The sidecar has seen that end once it answers what came after it.
			if err := f.WritePing(false, [8]byte{1}); err != nil {
				t.Fatal(err)
			}
		case *http2.PingFrame:
			close(stopped)
		case *http2.DataFrame:
			body, ended = body+string(fr.Data()), fr.StreamEnded()
		case *http2.RSTStreamFrame:
			t.Fatalf("reset with %v after %q", fr.ErrCode, body)
		}
	}
	if body != "no\n" {
		t.Errorf("body %q", body)
	}
	eventually(t, "metrics", func() bool {
		return a.metric("response_total", `direction="outbound"`, `status_code="413"`) == 1 && b.metric("response_total", `direction="inbound"`, `status_code="413"`) == 1
	})
}
