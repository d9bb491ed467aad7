package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/tunmesh/tunmesh/test/siege/attack"
	"github.com/tunmesh/tunmesh/tunproxy/h2/frame"
)

// apps are the kinds of attacked apps; each has the port of its place.
func apps() []attack.App {
	return []attack.App{{}, {Bytes: 4 << 10}, {Bytes: 16 << 10}, {Bytes: 60 << 10}, {Endless: true}}
}

// portOf is where an app listens.
func portOf(a attack.App) (int, error) {
	for i, b := range apps() {
		if a == b {
			return victimPort + i, nil
		}
	}
	return 0, fmt.Errorf("no app is of the kind %+v", a)
}

func victim() error {
	failed := make(chan error)
	for i, a := range apps() {
		l, err := net.Listen("tcp", ":"+strconv.Itoa(victimPort+i))
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					failed <- err
					return
				}
				go func() {
					defer c.Close()
					if a.Endless {
						endless(c)
						return
					}
					takeAll(c, a.Bytes)
				}()
			}
		}()
	}
	return <-failed
}

// endless answers with what has no end, as long as somebody takes it.
func endless(c net.Conn) {
	var buf [4 << 10]byte
	if _, err := c.Read(buf[:]); err != nil {
		return
	}
	_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
	for zeros := make([]byte, 64<<10); err == nil; {
		_, err = c.Write(zeros)
	}
}

// takeAll speaks HTTP/2, takes what comes, and answers requests with so many bytes
// that have no end, or not at all.
func takeAll(c net.Conn, n int) {
	out := frame.AppendSettings(nil, frame.Setting{ID: frame.InitialWindowSize, Value: 1 << 30}, frame.Setting{ID: frame.MaxConcurrentStreams, Value: 20_000})
	out = frame.AppendWindowUpdate(frame.AppendSettingsAck(out), 0, 1<<30)
	if _, err := c.Write(out); err != nil {
		return
	}
	if _, err := io.CopyN(io.Discard, c, int64(len(frame.Preface))); err != nil {
		return
	}
	var head [frame.HeaderLen]byte
	for {
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return
		}
		length := int64(head[0])<<16 | int64(head[1])<<8 | int64(head[2])
		if _, err := io.CopyN(io.Discard, c, length); err != nil {
			return
		}
		if n == 0 || frame.Type(head[3]) != frame.Headers {
			continue
		}
		id := binary.BigEndian.Uint32(head[5:]) &^ (1 << 31)
		out := frame.AppendHeaders(nil, id, []byte{0x88}, false, frame.MinMaxSize)
		for left := n; left > 0; left -= frame.MinMaxSize {
			out = frame.AppendData(out, id, make([]byte, min(left, frame.MinMaxSize)), false)
		}
		if _, err := c.Write(out); err != nil {
			return
		}
	}
}
