package tunproxy_test

import (
	"bytes"
	"crypto/tls"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/tunproxy/mtls/mtlstest"
)

// TestManyGiveUpAtOnce: when a slow server makes thousands of an app's requests
// time out, its sidecar resets as many streams of the hop. That breaks a
// stranger's connection, and must not break the hop, which others share.
func TestManyGiveUpAtOnce(t *testing.T) {
	w := newWorld(t)
	b := w.pod("b", "10.0.0.2")
	out := w.hostOutside("10.0.0.9")
	b.serveHTTP(80, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
		}
	})
	cert := w.ca.Issue(t, mtlstest.Leaf{URIs: []string{id("a").String()}})
	sidecar := tls.Client(out.dial("10.0.0.2:80"), &tls.Config{
		ServerName: id("b").ServerName(), NextProtos: []string{hop.ALPNRequests}, InsecureSkipVerify: true, //nolint:gosec // the far side's proof is not what is tested
		Certificates: []tls.Certificate{{Certificate: cert.Chain, PrivateKey: cert.Key}},
	})
	if answered := giveUp(t, sidecar); !answered {
		t.Error("the hop was broken for what its users did")
	}
	if n := b.metric("http2_resets_total"); n < 3000 {
		t.Errorf("%v resets counted, want 3000", n)
	}
	if answered := giveUp(t, out.dial("10.0.0.2:80")); answered {
		t.Error("a stranger may reset without bound")
	}
	if n := b.metric("http2_broken_total", `reason="resets"`); n != 1 {
		t.Errorf("%v connections broken for resets, want the stranger's", n)
	}
}

// giveUp asks and resets 3,000 times over c, and then asks once more: it reports
// whether that was answered.
func giveUp(t *testing.T, c net.Conn) bool {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	var out, head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	fr := http2.NewFramer(&out, c)
	out.WriteString(http2.ClientPreface)
	_ = fr.WriteSettings()
	ask := func(stream uint32, path string) {
		head.Reset()
		for _, f := range []hpack.HeaderField{
			{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "b"}, {Name: ":path", Value: path},
		} {
			_ = enc.WriteField(f)
		}
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: head.Bytes(), EndStream: true, EndHeaders: true})
	}
	stream := uint32(1)
	for range 3000 {
		ask(stream, "/slow")
		_ = fr.WriteRSTStream(stream, http2.ErrCodeCancel)
		stream += 2
	}
	ask(stream, "/last")
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(out.Bytes())
		wrote <- err
	}()
	defer func() { _ = c.Close(); <-wrote }()
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return false
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("GOAWAY with %v", f.ErrCode)
			}
			return false
		case *http2.HeadersFrame:
			if f.StreamID == stream {
				return true
			}
		}
	}
}
