package load

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// HTTP1 asks with HTTP/1.1, one request at a time on each connection.
func HTTP1(to netip.AddrPort, o Options) (Result, error) {
	o.Streams = 1
	n := 0
	return ask(to, o, func() protocol {
		host := o.Authority
		if o.Names > 1 {
			host = fmt.Sprintf("%d.%s", n%o.Names, host)
			n++
		}
		return &http1{request: []byte("GET " + o.Path + " HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: tunmesh-bench\r\nAccept: */*\r\n\r\n")}
	})
}

// HoldHTTP1 opens connections one after the other, asks once on each, and keeps
// them.
func HoldHTTP1(to netip.AddrPort, o Options) (Result, error) {
	request := []byte("GET " + o.Path + " HTTP/1.1\r\nHost: " + o.Authority + "\r\n\r\n")
	return hold(to, o.Connections, o.Duration, func(fd int, buf []byte) error {
		if err := send(fd, request); err != nil {
			return err
		}
		h := http1{request: request}
		for answered := false; !answered; {
			n, err := unix.Read(fd, buf)
			if err != nil || n == 0 {
				return fmt.Errorf("read: %w", errors.Join(err, errEnded))
			}
			err = h.read(buf[:n], nil, func(_ int, ok bool) { answered = ok })
			if err == nil && !answered && !h.inBody && len(h.head) == 0 {
				err = errors.New("the answer is an error")
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// http1 is a client's connection.
type http1 struct {
	request []byte
	head    []byte // what came of a head that is not whole
	body    int    // bytes of the body still to come
	chunks  chunkReader
	chunked bool
	inBody  bool
	ok      bool
}

func (h *http1) begin(out []byte) []byte { return out }

func (h *http1) ask(out []byte, _ int) []byte { return append(out, h.request...) }

// maxHead bounds a response's head.
const maxHead = 64 << 10

func (h *http1) read(in []byte, _ *[]byte, done func(int, bool)) error {
	for len(in) > 0 {
		if !h.inBody {
			n, err := h.readHead(in)
			if err != nil || n == 0 {
				return err
			}
			in = in[n:]
		}
		var over bool
		if h.chunked {
			n, end, err := h.chunks.skip(in)
			if err != nil {
				return err
			}
			in, over = in[n:], end
		} else {
			n := min(h.body, len(in))
			h.body -= n
			in, over = in[n:], h.body == 0
		}
		if over {
			h.inBody = false
			done(0, h.ok)
		}
	}
	return nil
}

// readHead returns how many bytes of in belong to the head, 0 when it is not
// whole yet: then they are kept.
func (h *http1) readHead(in []byte) (int, error) {
	head, n := in, bytes.Index(in, crlf2)
	kept := len(h.head)
	if kept > 0 {
		h.head = append(h.head, in...)
		head, n = h.head, bytes.Index(h.head, crlf2)
	}
	if n < 0 {
		if kept == 0 {
			h.head = append(h.head[:0], in...)
		}
		if len(h.head) > maxHead {
			return 0, errors.New("the head is too long")
		}
		return 0, nil
	}
	head, n = head[:n+2], n+4-kept
	h.head = h.head[:0]
	if len(head) < 12 || !bytes.HasPrefix(head, []byte("HTTP/1.")) {
		return 0, fmt.Errorf("no HTTP/1 response: %.40q", head)
	}
	h.ok = head[9] == '2'
	h.inBody, h.body, h.chunked = true, 0, false
	if v, ok := field(head, "content-length"); ok {
		size, err := strconv.Atoi(string(v))
		if err != nil || size < 0 {
			return 0, fmt.Errorf("content-length %q", v)
		}
		h.body = size
	} else if v, ok := field(head, "transfer-encoding"); ok && bytes.EqualFold(v, []byte("chunked")) {
		h.chunked, h.chunks = true, chunkReader{}
	}
	return n, nil
}

var crlf2 = []byte("\r\n\r\n") //nolint:gochecknoglobals // a constant

// field finds a header field of a head by its name in lower case.
func field(head []byte, name string) ([]byte, bool) {
	for len(head) > 0 {
		i := bytes.IndexByte(head, '\n')
		if i < 0 {
			return nil, false
		}
		line := head[:i]
		head = head[i+1:]
		if len(line) > len(name) && line[len(name)] == ':' && equalFold(line[:len(name)], name) {
			return bytes.TrimSpace(line[len(name)+1:]), true
		}
	}
	return nil, false
}

func equalFold(b []byte, lower string) bool {
	for i := range b {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// chunkReader finds the end of a chunked body.
type chunkReader struct {
	state int // 0 size, 1 rest of its line, 2 data and its line end, 3 trailers
	left  int
	line  int // bytes of the trailer line so far
}

// skip consumes what belongs to the body.
func (c *chunkReader) skip(in []byte) (n int, end bool, err error) {
	for n < len(in) {
		b := in[n]
		switch c.state {
		case 0:
			n++
			d, ok := hex(b)
			switch {
			case ok && c.left < 1<<40:
				c.left = c.left<<4 | d
			case b == '\r' || b == ';':
				c.state = 1
			default:
				return n, false, fmt.Errorf("chunk size: %q", b)
			}
		case 1:
			n++
			if b == '\n' {
				if c.state = 2; c.left == 0 {
					c.state = 3
				} else {
					c.left += 2
				}
			}
		case 2:
			k := min(c.left, len(in)-n)
			n, c.left = n+k, c.left-k
			if c.left == 0 {
				c.state = 0
			}
		default:
			n++
			switch {
			case b == '\n' && c.line == 0:
				return n, true, nil
			case b == '\n':
				c.line = 0
			case b != '\r':
				c.line++
			}
		}
	}
	return n, false, nil
}

func hex(b byte) (int, bool) {
	switch {
	case '0' <= b && b <= '9':
		return int(b - '0'), true
	case 'a' <= b|0x20 && b|0x20 <= 'f':
		return int(b|0x20-'a') + 10, true
	}
	return 0, false
}
