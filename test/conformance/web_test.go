package conformance_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	small = 1 << 10
	large = 48 << 20 // many windows, many TLS records
)

// site is the app that curl, Python and Go ask.
type site struct {
	requests atomic.Int64
	next     chan struct{} // lets the next event go
}

func newSite() *site { return &site{next: make(chan struct{}, 1)} }

// ServeHTTP says in X-Proto and X-Head what it was asked with.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	w.Header().Set("X-Proto", r.Proto)
	switch r.URL.Path {
	case "/sum": // of the body, as text; and its trailers
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		w.Header().Set("Trailer", "X-After")
		fmt.Fprintf(w, "%d %x %v %v %s", n, h.Sum(nil), r.TransferEncoding, r.ContentLength, r.Trailer.Get("X-Sum"))
		w.Header().Set("X-After", fmt.Sprint(err))
	case "/echo": // while it is still being sent
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(flusher{w}, r.Body)
	case "/bytes":
		n, _ := strconv.ParseInt(r.URL.Query().Get("n"), 10, 64)
		if r.URL.Query().Has("length") {
			w.Header().Set("Content-Length", fmt.Sprint(n))
		}
		_, _ = io.Copy(w, upload(n))
	case "/events":
		s.events(w)
	case "/refuse": // without a look at the body
		http.Error(w, "no", http.StatusRequestEntityTooLarge)
	case "/status":
		n, _ := strconv.Atoi(r.URL.Query().Get("code"))
		w.Header().Set("ETag", `"x"`)
		w.WriteHeader(n)
	case "/hints":
		for i := range 3 {
			w.Header().Set("Link", fmt.Sprintf("</%d>", i))
			w.WriteHeader(http.StatusEarlyHints)
		}
	default:
		fmt.Fprintf(w, "%s %s %s", r.Method, r.RequestURI, r.Host)
	}
}

// events sends one when the last has arrived.
func (s *site) events(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	for i := range 20 {
		fmt.Fprintf(w, "id: %d\ndata: event %d\n\n", i, i)
		w.(http.Flusher).Flush()
		select {
		case <-s.next:
		case <-time.After(10 * time.Second):
			return
		}
	}
}

type flusher struct{ http.ResponseWriter }

func (f flusher) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	f.ResponseWriter.(http.Flusher).Flush()
	return n, err
}

// pattern is an endless reader whose bytes tell where they stand.
type pattern struct{ at int }

func (r *pattern) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.at * 7 >> 3)
		r.at++
	}
	return len(p), nil
}

func upload(n int64) io.Reader { return io.LimitReader(new(pattern), n) }

func sumOf(n int64) string {
	h := sha256.New()
	_, _ = io.Copy(h, upload(n))
	return fmt.Sprintf("%x", h.Sum(nil))
}

// httpClient is Go's, in the client's pod.
func (p *pair) httpClient(t *testing.T, http2 bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	tr := &http.Transport{
		Protocols: protocols, ExpectContinueTimeout: 20 * time.Second,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return p.dial(ctx, addr) },
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// testGo: Go's client and server, over both versions.
func testGo(t *testing.T, p *pair) {
	s := newSite()
	for _, http2 := range []bool{false, true} {
		port := p.port()
		serveHTTP2(t, p.listen(t, port), s)
		c := &webClient{t: t, s: s, Client: p.httpClient(t, http2), url: "http://" + p.at(port), http2: http2}
		for name, f := range map[string]func(*webClient){
			"plain": (*webClient).plain, "events": (*webClient).events, "upload": (*webClient).upload, "download": (*webClient).download,
			"both ways at once": (*webClient).duplex, "continue": (*webClient).expect, "refused": (*webClient).refused,
			"without content": (*webClient).bodiless, "hints": (*webClient).hints,
		} {
			t.Run(fmt.Sprintf("http2=%v/%s", http2, name), func(t *testing.T) {
				of := *c
				of.t = t
				f(&of)
			})
		}
	}
}

type webClient struct {
	*http.Client
	t     *testing.T
	s     *site
	url   string
	http2 bool
}

func (c *webClient) do(method, path string, body io.Reader, with ...func(*http.Request)) (*http.Response, string) {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, body)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, f := range with {
		f(r)
	}
	resp, err := c.Do(r)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("%s %s: %v after %d bytes", method, path, err, len(b))
	}
	want := "HTTP/1.1"
	if c.http2 {
		want = "HTTP/2.0"
	}
	if resp.Header.Get("X-Proto") != want {
		c.t.Errorf("%s %s: the app was asked over %s: %d %s", method, path, resp.Header.Get("X-Proto"), resp.StatusCode, b)
	}
	return resp, string(b)
}

func (c *webClient) plain() {
	if resp, b := c.do("GET", "/a%2Fb/../c?d=%20", nil, func(r *http.Request) { r.Host = "name.example:81" }); resp.StatusCode != 200 || b != "GET /a%2Fb/../c?d=%20 name.example:81" {
		c.t.Errorf("%d %s", resp.StatusCode, b)
	}
}

func (c *webClient) events() {
	resp, err := c.Get(c.url + "/events")
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	r := textproto.NewReader(bufio.NewReader(resp.Body))
	n := 0
	for ; ; n++ {
		fields, err := r.ReadMIMEHeader()
		if err == io.EOF {
			break
		}
		if err != nil || fields.Get("Id") != fmt.Sprint(n) || fields.Get("Data") != fmt.Sprintf("event %d", n) {
			c.t.Fatalf("event %d: %v, %v", n, fields, err)
		}
		c.s.next <- struct{}{} // it was alone on the way
	}
	if n != 20 {
		c.t.Errorf("%d events", n)
	}
}

func (c *webClient) upload() {
	want := sumOf(large)
	for _, length := range []bool{true, false} {
		resp, b := c.do("POST", "/sum", upload(large), func(r *http.Request) {
			if length {
				r.ContentLength = large
				return
			}
			r.Trailer = http.Header{"X-Sum": {want}}
		})
		trailer := ""
		framing := fmt.Sprintf("[] %d", large)
		switch {
		case !length && c.http2:
			trailer, framing = want, "[] -1"
		case !length:
			trailer, framing = want, "[chunked] -1"
		}
		if want := fmt.Sprintf("%d %s %s %s", large, want, framing, trailer); b != want || resp.Trailer.Get("X-After") != "<nil>" {
			c.t.Errorf("length %v: %s, want %s; trailers %v", length, b, want, resp.Trailer)
		}
	}
}

func (c *webClient) download() {
	for _, query := range []string{"?n=%d", "?n=%d&length"} {
		resp, b := c.do("GET", "/bytes"+fmt.Sprintf(query, large), nil)
		if got := fmt.Sprintf("%x", sha256.Sum256([]byte(b))); len(b) != large || got != sumOf(large) {
			c.t.Errorf("%s: %d bytes, %s", query, len(b), got)
		}
		if has := resp.ContentLength >= 0; has != strings.Contains(query, "length") {
			c.t.Errorf("%s: length %d", query, resp.ContentLength)
		}
	}
}

func (c *webClient) duplex() {
	resp, err := c.Post(c.url+"/echo", "text/plain", upload(large/4))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	h := sha256.New()
	n, err := io.Copy(h, resp.Body)
	if got := fmt.Sprintf("%x", h.Sum(nil)); err != nil || n != large/4 || got != sumOf(large/4) {
		c.t.Errorf("%d bytes, %v", n, err)
	}
}

// expect: the body goes when the app has asked for it.
func (c *webClient) expect() {
	var told atomic.Bool
	ctx := httptrace.WithClientTrace(c.t.Context(), &httptrace.ClientTrace{Got100Continue: func() { told.Store(true) }})
	r, _ := http.NewRequestWithContext(ctx, "POST", c.url+"/sum", bytes.NewReader(make([]byte, small)))
	r.Header.Set("Expect", "100-continue")
	resp, err := c.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || !strings.HasPrefix(string(b), fmt.Sprint(small, " ")) || !told.Load() {
		c.t.Errorf("%s, %v, asked %v", b, err, told.Load())
	}
}

// refused: the response comes although nobody reads the body, and Expect saves
// sending it.
func (c *webClient) refused() {
	sent := 0
	body := readerFunc(func(p []byte) (int, error) { sent += len(p); return len(p), nil })
	r, _ := http.NewRequestWithContext(c.t.Context(), "POST", c.url+"/refuse", io.LimitReader(body, large))
	r.ContentLength = large
	r.Header.Set("Expect", "100-continue")
	resp, err := c.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusRequestEntityTooLarge || sent != 0 {
		c.t.Errorf("status %d after %d bytes", resp.StatusCode, sent)
	}
	resp, b := c.do("POST", "/refuse", upload(large), func(r *http.Request) { r.ContentLength = large })
	if resp.StatusCode != http.StatusRequestEntityTooLarge || b != "no\n" {
		c.t.Errorf("without Expect: %d %q", resp.StatusCode, b)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func (c *webClient) bodiless() {
	for range 3 { // what follows on the connection is not taken for a body
		resp, b := c.do("HEAD", "/bytes?n=1000&length", nil)
		if resp.ContentLength != 1000 || b != "" {
			c.t.Errorf("HEAD: length %d, %q", resp.ContentLength, b)
		}
		for _, code := range []int{204, 304, 205} {
			if resp, b := c.do("GET", fmt.Sprint("/status?code=", code), nil); resp.StatusCode != code || b != "" || resp.Header.Get("ETag") != `"x"` {
				c.t.Errorf("%d: %d %q %v", code, resp.StatusCode, b, resp.Header)
			}
		}
	}
}

func (c *webClient) hints() {
	var links []string
	c.do("GET", "/hints", nil, func(r *http.Request) {
		*r = *r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
			links = append(links, h.Get("Link"))
			return nil
		}}))
	})
	if fmt.Sprint(links) != "[</0> </1> </2>]" {
		c.t.Errorf("hints %v", links)
	}
}
