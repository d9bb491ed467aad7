package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

const (
	maxMessage   = 4 << 20
	callDeadline = 30 * time.Second
)

func serveWebSocket(ctx context.Context, address string) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	s := &http.Server{ReadHeaderTimeout: callDeadline, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo.test"}, InsecureSkipVerify: true, CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			return
		}
		defer c.CloseNow()
		echoMessages(ctx, c)
	})}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	return s.Serve(l)
}

// echoMessages answers each message with itself; "close" asks for the closing
// handshake to begin here.
func echoMessages(ctx context.Context, c *websocket.Conn) {
	c.SetReadLimit(maxMessage)
	for {
		kind, m, err := c.Read(ctx)
		if err != nil {
			return
		}
		if string(m) == "close" {
			_ = c.Close(4001, "as you wish")
			return
		}
		if c.Write(ctx, kind, m) != nil {
			return
		}
	}
}

// callWebSocket sends messages of many sizes, pings, and has the server close.
func callWebSocket(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, callDeadline)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{Subprotocols: []string{"echo.test"}, CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		return err
	}
	defer c.CloseNow()
	if c.Subprotocol() != "echo.test" || resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("subprotocol %q, status %d", c.Subprotocol(), resp.StatusCode)
	}
	c.SetReadLimit(maxMessage)
	for i, n := range []int{0, 1, 125, 126, 4096, 65535, 65536, 1 << 20, 2} {
		kind := websocket.MessageBinary
		if i%2 == 0 {
			kind = websocket.MessageText
		}
		want := bytes.Repeat([]byte("abcdefg"), n/7+1)[:n]
		if err := c.Write(ctx, kind, want); err != nil {
			return fmt.Errorf("write %d bytes: %w", n, err)
		}
		k, got, err := c.Read(ctx)
		if err != nil || k != kind || !bytes.Equal(got, want) {
			return fmt.Errorf("echo of %d bytes: %v of %d: %w", n, k, len(got), err)
		}
	}
	if err := c.Write(ctx, websocket.MessageText, []byte("close")); err != nil {
		return err
	}
	_, _, err = c.Read(ctx)
	if e := (websocket.CloseError{}); !errors.As(err, &e) || e.Code != 4001 || e.Reason != "as you wish" {
		return fmt.Errorf("the server's close: %w", err)
	}
	return nil
}
