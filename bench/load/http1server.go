package load

import (
	"bytes"
	"errors"
	"strconv"
)

// defaultBody is the size of an answer to a path that names none.
const defaultBody = 128

// http1server is a connection that answers GET /N?ECHO with N bytes and, when
// there is a query, a field that repeats it.
type http1server struct {
	head []byte
	skip int // bytes of a request's body
}

// read appends answers to c.
func (h *http1server) read(in []byte, c *served) error {
	for {
		n := min(h.skip, len(in))
		h.skip -= n
		if in = in[n:]; len(in) == 0 {
			return nil
		}
		head := in
		kept := len(h.head)
		if kept > 0 {
			h.head = append(h.head, in...)
			head = h.head
		}
		end := bytes.Index(head, crlf2)
		if end < 0 {
			if kept == 0 {
				h.head = append(h.head[:0], in...)
			}
			if len(h.head) > maxHead {
				return errors.New("the head is too long")
			}
			return nil
		}
		if err := h.answer(head[:end+2], c); err != nil {
			return err
		}
		in = in[end+4-kept:]
		h.head = h.head[:0]
	}
}

func (h *http1server) answer(head []byte, c *served) error {
	line, _, _ := bytes.Cut(head, crlf2[:2])
	_, rest, _ := bytes.Cut(line, []byte{' '})
	target, _, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return errors.New("no request")
	}
	if v, ok := field(head, "content-length"); ok {
		n, err := strconv.Atoi(string(v))
		if err != nil || n < 0 {
			return errors.New("content-length")
		}
		h.skip = n
	}
	path, query, _ := bytes.Cut(target, []byte{'?'})
	size := defaultBody
	if n, err := strconv.Atoi(string(path[min(1, len(path)):])); err == nil && n >= 0 {
		size = n
	}
	// A body that waits would be written after this head: bodies of requests that
	// are pipelined go by out.
	if c.body > 0 {
		c.out = fill(c.out, c.body)
		c.body = 0
	}
	c.out = append(c.out, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nServer: tunmesh-bench\r\n"...)
	if len(query) > 0 {
		c.out = append(append(append(c.out, "X-Echo: "...), query...), crlf2[:2]...)
	}
	c.out = append(c.out, "Content-Length: "...)
	c.out = strconv.AppendInt(c.out, int64(size), 10)
	c.out = append(c.out, crlf2...)
	if size <= 4096 {
		c.out = fill(c.out, size)
	} else {
		c.body = size
	}
	return nil
}

func fill(out []byte, n int) []byte {
	for n > 0 {
		k := min(n, len(filler))
		out = append(out, filler[:k]...)
		n -= k
	}
	return out
}
