package exchange_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tunmesh/tunmesh/tunproxy/h1"
	"github.com/tunmesh/tunmesh/tunproxy/h2"
)

// mutants writes requests that are mostly good, from pieces over which parsers
// have disagreed.
type mutants struct{ *rand.Rand }

// one of the pieces; the first is the good one and comes most of the time.
func (m mutants) one(pieces ...string) string {
	if m.IntN(50) > 0 {
		return pieces[0]
	}
	return pieces[m.IntN(len(pieces))]
}

// some of the pieces, none better than the others.
func (m mutants) some(pieces ...string) string { return pieces[m.IntN(len(pieces))] }

func (m mutants) end() string {
	return m.one("\r\n", "\r\n", "\n", "\r", "\r\r\n", "\x00\r\n", "\n\r\n", " \r\n", "\r\n ", "\v\r\n")
}

func (m mutants) request() string {
	var b strings.Builder
	b.WriteString(m.one("", "\r\n", "\n", "\r\n\r\n", " "))
	b.WriteString(m.some("GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", m.one("BREW", "get", "G ET", "GET\t", "P\x00ST")))
	b.WriteString(m.one(" ", "  ", "\t", "\v", "\r"))
	b.WriteString(m.some("/", "/a/../b?c=d", "*", "http://b/x", m.one("//x", "http://b", "http://b?x", "http:///", "http://u@b/", "/a#b", "/\x01", "/\xe4", "b:1", "/ HTTP/1.1\r\nX: /")))
	b.WriteString(m.one(" ", "  ", "\t"))
	b.WriteString(m.one("HTTP/1.1", "HTTP/1.0", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", "HTTP/01.1", "HTTP/1.", ""))
	b.WriteString(m.end())
	fields := []string{m.one("Host: a", "hOsT: a", "Host:a", "Host: ", "Host : a", "Host: a, b", "Host: a/b", "", "Host: a\r\nHost: b")}
	chunked := false
	switch m.IntN(5) {
	case 0, 1:
		fields = append(fields, m.length())
	case 2, 3:
		chunked = true
		fields = append(fields, m.coding())
	}
	if m.IntN(12) == 0 { // both, in some way
		fields = append(fields, m.length())
	}
	for range m.IntN(4) {
		fields = append(fields, m.some("X-A: b", "x-a: c", "X-B:", "X-C: \t d\te \t", "Connection: close", "Connection: keep-alive", "Connection: x-a, Content-Length",
			"Connection: Transfer-Encoding, Host", "TE: trailers", "Expect: 100-continue", "Keep-Alive: 5", "Upgrade: h2c", "x-tunmesh-orig: 1.1;c", "X_Tunmesh_Orig: 1.0;a",
			"Transfer_Encoding: chunked", "Content_Length: 5", m.one("X: y", " folded", "X : y", ": y", "no colon", "X\x00: y", "X: y\x00", "X: \xff", "X[: y", "X: y\rZ: w", "X: y\nZ: w")))
	}
	m.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	for _, f := range fields {
		if f != "" {
			b.WriteString(f + m.end())
		}
	}
	b.WriteString(m.end())
	if chunked {
		for range m.IntN(3) {
			b.WriteString(m.chunk())
		}
		b.WriteString(m.one("0", "00", "0 ", "0;x", "0x0", "-0", "") + m.end())
		b.WriteString(m.one("", "T: u\r\n", "t: u\r\nV: w\r\n", "Host: c\r\n", "Content-Length: 5\r\n", " folded\r\n", "T u\r\n"))
		b.WriteString(m.end())
	} else {
		b.WriteString(m.some("abc", "abc", "", "abcd", "0\r\n\r\n", "GET /evil HTTP/1.1\r\nHost: e\r\n\r\n"))
	}
	return b.String()
}

func (m mutants) length() string {
	return m.one("Content-Length", "content-length", "Content-Length ", "Content\x00-Length", " Content-Length") + ":" + m.one(" ", "", "\t", "\v", "\r\n ") +
		m.some("3", "0", "4", m.one("5", "03", "+3", "-1", "3,3", "3 3", "0x3", "3\x00", "", "99999999999999999999", "1e1", "٣", "3;")) +
		m.one("", " ", "\t", "\v", "\r\nContent-Length: 3", "\r\nContent-Length: 7")
}

func (m mutants) coding() string {
	return m.one("Transfer-Encoding", "transfer-encoding", "Transfer-Encoding ", "Transfer-Encoding\t", "\tTransfer-Encoding", "Transfer\rEncoding") + ":" + m.one(" ", "", "\t", "\v", "\r\n ") +
		m.one("chunked", "Chunked", "chunked ", "xchunked", "chunked, chunked", "gzip, chunked", "chunked, identity", "identity", ",chunked", "chunked;q=1", "\"chunked\"", "chun\x00ked", "") +
		m.one("", " ", "\t", "\v", "\r\nTransfer-Encoding: identity", "\r\nTransfer-Encoding: chunked")
}

func (m mutants) chunk() string {
	return m.one("3", "03", "003", "3 ", " 3", "3\t", "0x3", "+3", "3h", "F", "2", "4", "ffffffffffffffff", "10000000000000003", "3,3") +
		m.one("", ";a", ";a=b", "; a = \"b;\\\"\"", ";", ";a=\"b\r\n", ";\n", ";\x00", " ;a") + m.end() + "abc" + m.end()
}

// TestMutants holds many of them to what FuzzHop does.
func TestMutants(t *testing.T) {
	const n = 3000
	mem, buffers := h2.NewMemory(), h1.NewBuffers()
	m := mutants{rand.New(rand.NewPCG(1, 2))}
	passed := 0
	for range n {
		in := m.request() + m.request() + m.request()
		p := newPair(t, mem, buffers)
		cut := m.IntN(len(in))
		p.client.Put([]byte(in[:cut]))
		p.run()
		if !p.client.WasReset() && !p.client.EOF() {
			p.client.Put([]byte(in[cut:]))
			p.run()
		}
		_ = p.client.CloseWrite()
		p.run()
		p.judge(in)
		for _, a := range p.apps {
			passed += len(a.heard)
		}
	}
	t.Logf("%d of %d requests reached the app", passed, 3*n)
	if passed < n/10 || passed > 2*n {
		t.Errorf("%d of %d requests reached the app: they are no test", passed, 3*n)
	}
}
