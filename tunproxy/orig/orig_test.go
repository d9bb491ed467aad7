package orig

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/internal/hop"
	"github.com/tunmesh/tunmesh/tunproxy/message"
)

func fields(nv ...string) (f []message.Field) {
	for i := 0; i < len(nv); i += 2 {
		f = append(f, message.Field{Name: nv[i], Value: nv[i+1]})
	}
	return f
}

func request(version message.Version, nv ...string) *message.Head {
	return &message.Head{Method: "GET", Scheme: "http", Authority: "a", Path: "/", Version: version, Fields: fields(nv...)}
}

func response(status int, reason string, nv ...string) *message.Head {
	return &message.Head{Status: status, Reason: reason, Version: message.HTTP11, Fields: fields(nv...)}
}

func list(f []message.Field) string {
	var b strings.Builder
	for i := range f {
		fmt.Fprintf(&b, "%s: %s\n", f[i].Name, f[i].Value)
	}
	return b.String()
}

// hopped is h as the far side's HTTP/2 delivers it: lower-case names, nothing that
// HTTP/2 has no word for.
func hopped(t testing.TB, h *message.Head) *message.Head {
	t.Helper()
	g := h.Clone()
	g.Version, g.Reason, g.Form, g.Upgrade = message.HTTP2, "", message.Origin, false
	switch {
	case g.Path == "*":
		g.Form = message.Asterisk
	case g.Method == "CONNECT":
		g.Form = message.Authority
	}
	for i := range g.Fields {
		f := &g.Fields[i]
		f.Name = strings.ToLower(f.Name)
		if of(f.Name, "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host") || f.Name == "te" && f.Value != "trailers" {
			t.Errorf("%s: %s has no place in HTTP/2", f.Name, f.Value)
		}
		if f.Value != strings.Trim(f.Value, " \t") || strings.ContainsAny(f.Value, "\r\n\x00") {
			t.Errorf("%s: %q is not a value in HTTP/2", f.Name, f.Value)
		}
	}
	return g
}

func TestField(t *testing.T) {
	for _, tt := range []struct {
		name string
		head *message.Head
		want string
	}{
		{"usual request", request(message.HTTP11, "User-Agent", "x", "X-Request-Id", "1"), "1.1"},
		{"lower-case names", request(message.HTTP11, "user-agent", "x", "accept", "1"), "1.1;l"},
		{"no fields", request(message.HTTP11), "1.1"},
		{"HTTP/1.0", request(message.HTTP10, "Accept", "x"), "1.0"},
		{"HTTP/1.0 with keep-alive", request(message.HTTP10, "Connection", "Keep-Alive"), "1.0;k"},
		{"names of their own", request(message.HTTP11, "Accept", "x", "ETag", "y", "X-Request-ID", "z"), `1.1;n="ETag,X-Request-ID"`},
		{"exceptions from lower case", request(message.HTTP11, "accept", "x", "Host-Like", "y"), `1.1;l;n="Host-Like"`},
		{"one name in two spellings", request(message.HTTP11, "X-A", "1", "x-a", "2", "X-A", "3", "B", "4"), `1.1;n="X-A,x-a,X-A"`},
		{"spelling of what does not travel", request(message.HTTP11, "Accept", "x", "CONNECTION", "keep-alive"), "1.1"},
		{"chunked", request(message.HTTP11, "Transfer-Encoding", "chunked"), "1.1;c"},
		{"chunked, not last", request(message.HTTP11, "A", "b", "Transfer-Encoding", "chunked", "C", "d"), `1.1;c="1"`},
		{"chunked, spelled", request(message.HTTP11, "A", "b", "transfer-Encoding", "chunked"), `1.1;c;n="transfer-Encoding"`},
		{"Host first", request(message.HTTP11, "Host", "a", "accept", "*/*"), "1.1;l"},
		{"Host last", request(message.HTTP11, "A", "b", "Connection", "close", "C", "d", "Host", "a"), `1.1;h="2"`},
		{"Host in lower case", request(message.HTTP11, "host", "a", "accept", "*/*"), `1.1;l;h="0"`},
		{"Host of its own", request(message.HTTP11, "HOST", "a", "Accept", "*/*"), `1.1;h="0";n="HOST"`},
		{"an upgrade that is required", response(426, "", "Upgrade", "websocket", "Connection", "upgrade"), `1.1;u="websocket"`},
		{"an upgrade that is offered", response(200, "OK", "Upgrade", "h2c", "Connection", "upgrade"), `1.1`},
		{"usual response", response(200, "OK", "Content-Type", "x"), "1.1"},
		{"own reason", response(200, `Very "fine" `, "Content-Type", "x"), `1.1;r="Very "fine" "`},
		{"no reason", response(404, "", "Content-Type", "x"), `1.1;r=""`},
		{"no reason, unknown status", response(299, "", "Content-Type", "x"), `1.1`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			NewNames().Pack(tt.head)
			last := tt.head.Fields[len(tt.head.Fields)-1]
			if last.Name != hop.FieldOrig || last.Value != tt.want {
				t.Errorf("%s: %s, want %s", last.Name, last.Value, tt.want)
			}
		})
	}
}

func TestRoundTrip(t *testing.T) {
	absolute := request(message.HTTP11, "A", "b")
	absolute.Form = message.Absolute
	asterisk := request(message.HTTP11, "A", "b")
	asterisk.Method, asterisk.Path, asterisk.Form = "OPTIONS", "*", message.Asterisk
	both := request(message.HTTP11, "A", "b")
	both.Method, both.Path, both.Form = "OPTIONS", "*", message.Absolute
	for _, h := range []*message.Head{
		request(message.HTTP11, "User-Agent", "curl", "ACCEPT", "*/*", "x-lower", "1", "X-Mixed-cAse", "2"),
		request(message.HTTP11, "accept", "*/*", "ACCEPT", "z", "Accept", "y", "accept", "w"),
		request(message.HTTP10, "accept", "*/*"),
		request(message.HTTP11, "Cookie", "a=b; c=d", "Cookie", "e=f", "Content-Length", "5", "Expect", "100-continue", "Te", "trailers"),
		request(message.HTTP11, "A", "b", "Transfer-Encoding", "chunked", "Host", "a", "C", "d"),
		request(message.HTTP11, "A", "b", "HOST", "a", "transfer-encoding", "chunked", "C", "d"),
		request(message.HTTP11, "A", "b", "Host", "a", "Transfer-Encoding", "chunked"),
		request(message.HTTP11, "host", "a", "transfer-encoding", "chunked"),
		request(message.HTTP11, "host", "a"),
		request(message.HTTP11, "transfer-encoding", "chunked", "host", "a"),
		response(426, "Upgrade Required", "Content-Length", "0", "Upgrade", "websocket"),
		response(200, "OK", "TRANSFER-encoding", "chunked", "ETag", "x"),
		absolute, asterisk, both,
		response(200, "OK", "Set-Cookie", "a", "Set-Cookie", "b", "ETag", `"x"`),
		response(200, ";r=\"", "ETag", "x"),
		response(599, "\tA  b\xe4 ", "etag", "x"),
		response(304, "Not Modified"),
		response(404, ""),
	} {
		want := h.Clone()
		n := NewNames()
		n.Pack(h)
		got := hopped(t, h)
		http1, err := n.Unpack(got)
		if !http1 || err != nil {
			t.Fatalf("%+v: %v, %v", want, http1, err)
		}
		compare(t, got, want)
	}
}

func compare(t testing.TB, got, want *message.Head) {
	t.Helper()
	if list(got.Fields) != list(want.Fields) {
		t.Errorf("fields\n%swant\n%s", list(got.Fields), list(want.Fields))
	}
	g, w := *got, *want
	g.Fields, w.Fields = nil, nil
	if fmt.Sprintf("%+v", g) != fmt.Sprintf("%+v", w) {
		t.Errorf("got  %+v\nwant %+v", g, w)
	}
}

func TestConnectionFields(t *testing.T) {
	for _, tt := range []struct{ in, want []message.Field }{
		{
			fields("Connection", "close, X-Private", "Keep-Alive", "5", "X-Private", "1", "Kept", "1", "Proxy-Connection", "x", "Upgrade", "h2c", "HTTP2-Settings", "y", "Host", "evil", "TE", "gzip"),
			fields("Kept", "1"),
		},
		{fields("TE", "gzip, trailers", "te", "trailers"), fields("TE", "trailers")},
		{fields("Connection", "content-length, Content-Type, host", "Content-Length", "3", "Content-Type", "x"), fields("Content-Length", "3", "Content-Type", "x")},
		{
			fields("Connection", "a1,a2,a3,a4,a5,a6,a7,a8,a9,a10", "A1", "x", "A9", "x", "a10", "x", "Content-Length", "1", "B", "x"),
			fields("Content-Length", "1", "B", "x"),
		},
		{fields("Connection", "", "Connection", ",,", "B", "x"), fields("B", "x")},
	} {
		if got := dropPlaced(dropConnection(append([]message.Field(nil), tt.in...))); list(got) != list(tt.want) {
			t.Errorf("%s->\n%s, want\n%s", list(tt.in), list(got), list(tt.want))
		}
	}
}

func TestNoContent(t *testing.T) {
	for _, h := range []*message.Head{response(204, "No Content", "Content-Length", "5"), response(103, "", "Content-Length", "5")} {
		NewNames().Pack(h)
		if _, ok := h.Get("content-length"); ok {
			t.Errorf("%d has a length", h.Status)
		}
	}
}

// TestStrip: nobody but a sidecar says what sidecars say.
func TestStrip(t *testing.T) {
	bad := []string{"x-tunmesh-orig", "X-Tunmesh-Orig", "X-TUNMESH-anything", "x_tunmesh_orig", "x-tunmesh-proxy-error"}
	var nv []string
	for _, name := range bad {
		nv = append(nv, name, "1.0;a")
	}
	nv = append(nv, "X-Tunmes", "kept", "X-Tunmeshed", "kept")
	want := "X-Tunmes: kept\nX-Tunmeshed: kept\n"
	n := NewNames()
	h := request(message.HTTP11, nv...)
	FromClient{}.Request(h)
	if got := list(h.Fields); got != want {
		t.Errorf("from a client:\n%s", got)
	}
	h = request(message.HTTP11, nv...)
	ToServer{}.Request(h)
	if got := list(h.Fields); got != want {
		t.Errorf("to a server:\n%s", got)
	}
	h = response(200, "OK", nv...)
	ToServer{}.Response(h)
	if got := list(h.Fields); got != want {
		t.Errorf("from a server:\n%s", got)
	}
	for _, version := range []message.Version{message.HTTP11, message.HTTP2} {
		h = request(version, nv...)
		ToSidecar{n}.Request(h)
		if got := strings.TrimSuffix(list(h.Fields), hop.FieldOrig+": 1.1\n"); got != want {
			t.Errorf("to a sidecar, version %d:\n%s", version, got)
		}
	}
	if got := list((ToServer{}).Trailers(fields(nv...))); got != want {
		t.Errorf("trailers:\n%s", got)
	}

	// A sidecar's own error reaches the app, through both sidecars.
	h = response(503, "Service Unavailable", "content-length", "0", hop.FieldProxyError, "no endpoint")
	FromSidecar{n}.Response(h)
	h = hopped(t, h)
	ToSidecar{n}.Response(h)
	FromClient{}.Response(h)
	if v, _ := h.Get(hop.FieldProxyError); v != "no endpoint" || h.Status != 503 {
		t.Errorf("%s", list(h.Fields))
	}
	f := fields("grpc-status", "14", hop.FieldProxyError, "broken")
	if got := (FromClient{}).Trailers((ToSidecar{n}).Trailers((FromSidecar{n}).Trailers(f))); len(got) != 2 {
		t.Errorf("trailers: %s", list(got))
	}
}

func TestHTTP2PassesAsItIs(t *testing.T) {
	n := NewNames()
	h := request(message.HTTP2, "te", "trailers", "x-a", "b")
	want := list(h.Fields)
	ToSidecar{n}.Request(h)
	if list(h.Fields) != want {
		t.Errorf("packed: %s", list(h.Fields))
	}
	FromSidecar{n}.Request(h)
	if list(h.Fields) != want || h.Version != message.HTTP2 {
		t.Errorf("unpacked: %s", list(h.Fields))
	}
}

func TestMalformed(t *testing.T) {
	for _, v := range []string{"", "1", "1.", "1.2", "2.0", "1.1x", "1.1;", "1.1;;a", `1.1;n=`, `1.1;n="a`, `1.1;n=a`, `1.1;r="`, `1.1;r="a`, `1.1;r=a`, `1.1;=`, `1.1;n="a"x`} {
		h := request(message.HTTP2, "content-type", "x", hop.FieldOrig, v)
		http1, err := NewNames().Unpack(h)
		if http1 || err == nil || h.Version != message.HTTP2 || list(h.Fields) != "content-type: x\n" {
			t.Errorf("%q: %v, %v, %+v", v, http1, err, h)
		}
	}
	h := request(message.HTTP2, hop.FieldOrig, "1.1", hop.FieldOrig, "1.0")
	if http1, err := NewNames().Unpack(h); http1 || err == nil || len(h.Fields) != 0 {
		t.Errorf("twice: %v, %v, %+v", http1, err, h)
	}
	// What a newer peer adds is ignored.
	h = request(message.HTTP2, "etag", "x", hop.FieldOrig, `1.1;z;y=";,";n="ETag"`)
	if http1, err := NewNames().Unpack(h); !http1 || err != nil || h.Fields[0].Name != "ETag" {
		t.Errorf("unknown parameters: %v, %v, %+v", http1, err, h)
	}
}

// TestBounded: what a hostile peer sends is not remembered without end.
func TestBounded(t *testing.T) {
	n := NewNames()
	for i := range 5000 {
		h := request(message.HTTP11, fmt.Sprintf("x-Name-%d", i), "v")
		n.Pack(h)
		h = hopped(t, h)
		_, _ = n.Unpack(h)
		h = request(message.HTTP2, fmt.Sprintf("y-%d", i), "v", hop.FieldOrig, "1.1")
		_, _ = n.Unpack(h)
	}
	if len(n.titles) > maxCached || len(n.values) > maxCached {
		t.Errorf("%d and %d remembered", len(n.titles), len(n.values))
	}
}

// randomHead is a head of HTTP/1 as its parser would deliver it.
func randomHead(r *rand.Rand) *message.Head {
	pick := func(some ...string) string { return some[r.IntN(len(some))] }
	h := &message.Head{Scheme: "http", Authority: "a.example", Version: message.HTTP11}
	if r.IntN(4) == 0 {
		h.Version = message.HTTP10
	}
	if r.IntN(2) == 0 {
		h.Method, h.Path = pick("GET", "POST", "X-Y"), pick("/", "/a?b=c", "/%20\xff")
		h.Form = message.Form(r.IntN(2))
	} else {
		h.Status, h.Reason = 200+r.IntN(300), pick("", "OK", "Not Found", `a"b;n="`, " \t", "\xfc;")
	}
	for range r.IntN(8) {
		name := []byte(pick("accept", "x-a", "x-b", "etag", "content-type", "-x", "x--y", "1a", "a"))
		switch r.IntN(4) {
		case 0:
			name = []byte(NewNames().title(string(name)))
		case 1:
			name = []byte(strings.ToUpper(string(name)))
		case 2:
			for i := range name {
				if r.IntN(2) == 0 && 'a' <= name[i] && name[i] <= 'z' {
					name[i] -= 0x20
				}
			}
		}
		h.Fields = append(h.Fields, message.Field{Name: string(name), Value: pick("", "v", "a, b", `"q"`)})
	}
	return h
}

func TestRoundTripOfRandomHeads(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	near, far := NewNames(), NewNames()
	for range 20_000 {
		h := randomHead(r)
		want := h.Clone()
		near.Pack(h)
		got := hopped(t, h)
		if http1, err := far.Unpack(got); !http1 || err != nil {
			t.Fatalf("%+v: %v", want, err)
		}
		compare(t, got, want)
		if t.Failed() {
			t.Fatalf("of %+v", want)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	n := NewNames()
	req, res := request(message.HTTP11, "User-Agent", "x", "Connection", "keep-alive", "X-Request-ID", "1", "Accept", "*/*"), response(200, "Fine", "Content-Type", "x", "Server", "y")
	buf := make([]message.Field, 0, 16)
	roundTrip := func(h *message.Head) {
		g := *h
		g.Fields = append(buf[:0], h.Fields...)
		n.Pack(&g)
		for i := range g.Fields {
			switch g.Fields[i].Name { // as HTTP/2's static table would
			case "User-Agent":
				g.Fields[i].Name = "user-agent"
			case "X-Request-ID":
				g.Fields[i].Name = "x-request-id"
			}
		}
		_, _ = n.Unpack(&g)
	}
	if a := testing.AllocsPerRun(100, func() { roundTrip(req); roundTrip(res) }); a != 0 {
		t.Errorf("%v allocations for a request and a response", a)
	}
}

func FuzzUnpack(f *testing.F) {
	for _, v := range []string{"1.1", `1.0;a;c;k;l;n="ETag,etag";r="x"`, "1.1;", `1.1;r="`} {
		f.Add(v, "etag", true)
	}
	f.Add(`1.0;h;n="EA00,etag"`, "etA0", true)
	f.Fuzz(func(t *testing.T, value, name string, isRequest bool) {
		if of(name, "host", "transfer-encoding", "connection") {
			return // HTTP/2 has none: they come back from what it says otherwise
		}
		h := response(200, "", name, "v", "Etag", "w", hop.FieldOrig, value)
		if isRequest {
			h = request(message.HTTP2, name, "v", "Etag", "w", hop.FieldOrig, value)
		}
		h.Version = message.HTTP2
		names := []string{name, "Etag"}
		http1, err := NewNames().Unpack(h)
		if http1 == (err != nil) {
			t.Fatalf("%v, %v", http1, err)
		}
		h.Fields = slices.DeleteFunc(h.Fields, func(f message.Field) bool {
			return of(f.Name, "transfer-encoding", "connection") || isRequest && of(f.Name, "host") && f.Value == h.Authority
		})
		// Whatever the peer says: names change in spelling alone.
		n := 0
		for _, want := range names {
			if ours(want) && want != hop.FieldProxyError {
				continue
			}
			if n >= len(h.Fields) || !message.EqualFold(h.Fields[n].Name, want) {
				if ours(want) {
					continue
				}
				t.Fatalf("%q became %+v", want, h.Fields)
			}
			n++
		}
		if n < len(h.Fields) {
			t.Fatalf("%+v appeared", h.Fields[n:])
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	f.Add("X-A", "x-a", "Very fine", uint16(200))
	f.Add("ETag", "Etag", `";n="`, uint16(0))
	f.Fuzz(func(t *testing.T, a, b, reason string, status uint16) {
		for _, name := range []string{a, b} {
			if name == "" || ours(name) || of(name, "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings", "host", "te", "content-length") {
				return
			}
			for i := range len(name) {
				c := lower(name[i])
				if (c < 'a' || c > 'z') && c != '-' && (c < '0' || c > '9') {
					return
				}
			}
		}
		for i := range len(reason) {
			if c := reason[i]; c < ' ' && c != '\t' || c == 0x7f {
				return
			}
		}
		h := request(message.HTTP11, a, "1", b, "2")
		if status >= 200 && status < 1000 {
			h = response(int(status), reason, a, "1", b, "2")
		}
		want := h.Clone()
		NewNames().Pack(h)
		got := hopped(t, h)
		if http1, err := NewNames().Unpack(got); !http1 || err != nil {
			t.Fatal(err)
		}
		compare(t, got, want)
	})
}

// What a sidecar decided about tracing crosses the hop, with HTTP/1 and HTTP/2;
// an app can neither say it nor read it.
func TestUntraced(t *testing.T) {
	for _, v := range []message.Version{message.HTTP11, message.HTTP2} {
		for _, untraced := range []bool{false, true} {
			h := &message.Head{Method: "GET", Scheme: "http", Authority: "a", Path: "/", Version: v, Untraced: untraced, Fields: []message.Field{{Name: "accept", Value: "x"}}}
			ToSidecar{Names: NewNames()}.Request(h)
			got := &message.Head{Method: "GET", Scheme: "http", Authority: "a", Path: "/", Version: message.HTTP2, Fields: h.Fields}
			FromSidecar{Names: NewNames()}.Request(got)
			if got.Untraced != untraced || len(got.Fields) != 1 {
				t.Errorf("version %d: untraced %v became %v: %v", v, untraced, got.Untraced, got.Fields)
			}
		}
	}
	h := &message.Head{Method: "GET", Version: message.HTTP2, Fields: []message.Field{{Name: "X-Tunmesh_Untraced", Value: "1"}, {Name: "x-tunmesh-untraced", Value: "1"}}}
	FromClient{}.Request(h)
	if h.Untraced || len(h.Fields) != 0 {
		t.Errorf("an app's word: %v, %v", h.Untraced, h.Fields)
	}
}
