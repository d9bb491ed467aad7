package load

import (
	"bytes"
	"errors"
	"net/netip"
)

// Bytes sends messages of size bytes and waits for the same to come back, one at
// a time on each connection.
func Bytes(to netip.AddrPort, o Options, size int) (Result, error) {
	o.Streams = 1
	message := bytes.Repeat([]byte("tunmesh "), size/8+1)[:size]
	return ask(to, o, func() protocol { return &echo{message: message} })
}

// echo is a connection to a server that sends back what it gets.
type echo struct {
	message []byte
	got     int
}

func (*echo) begin(out []byte) []byte { return out }

func (e *echo) ask(out []byte, _ int) []byte { return append(out, e.message...) }

func (e *echo) read(in []byte, _ *[]byte, done func(slot int, ok bool)) error {
	for len(in) > 0 {
		n := min(len(in), len(e.message)-e.got)
		if !bytes.Equal(in[:n], e.message[e.got:e.got+n]) {
			return errors.New("the server sends back something else than it gets")
		}
		in = in[n:]
		if e.got += n; e.got == len(e.message) {
			e.got = 0
			done(0, true)
		}
	}
	return nil
}
