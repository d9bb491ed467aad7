package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// churned counts what churn did, to the last byte.
type churned struct {
	HTTP1      int      `json:"http1"` // requests, each on a connection of its own
	HTTP2      int      `json:"http2"` // requests, some on each connection
	HTTP2Conns int      `json:"http2_conns"`
	Bytes      int64    `json:"bytes"` // sent as bytes; as many came back
	ByteConns  int      `json:"byte_conns"`
	Trips      int      `json:"trips"`
	Failures   []string `json:"failures"`
}

// churnCommand makes connections of every kind, some a second, and a few that
// stay. The ports are those of `load serve`.
func churnCommand() *cobra.Command {
	var duration time.Duration
	var web, h2, echo string
	c := &cobra.Command{
		Use: "churn", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), duration)
			defer cancel()
			c := &churn{web: web, h2: h2, echo: echo}
			return answer(c.run(ctx))
		},
	}
	c.Flags().DurationVar(&duration, "duration", 5*time.Second, "how long")
	c.Flags().StringVar(&web, "http1", "", "HOST:PORT of HTTP/1.1")
	c.Flags().StringVar(&h2, "http2", "", "HOST:PORT of HTTP/2 in the clear")
	c.Flags().StringVar(&echo, "echo", "", "HOST:PORT of the echo")
	return c
}

type churn struct {
	web, h2, echo string

	mu sync.Mutex
	r  churned
}

const (
	// perH2 is how many requests each connection of HTTP/2 has.
	perH2 = 5
	// message is the size of what is echoed, and kept how many connections stay.
	message, kept = 512, 4
)

func (c *churn) run(ctx context.Context) churned {
	var wg sync.WaitGroup
	each := func(every time.Duration, f func() error) {
		wg.Go(func() {
			t := time.NewTicker(every)
			defer t.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-t.C:
				}
				if err := f(); err != nil {
					c.fail(err)
				}
			}
		})
	}
	// 10 and 1 connections of HTTP a second with 15 requests, 10 of bytes.
	each(100*time.Millisecond, c.http1)
	each(time.Second, c.http2)
	each(100*time.Millisecond, func() error { return c.bytes(1) })
	for range kept {
		wg.Go(func() {
			if err := c.stay(ctx); err != nil {
				c.fail(err)
			}
		})
	}
	wg.Wait()
	return c.r
}

func (c *churn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.r.Failures) < 20 {
		c.r.Failures = append(c.r.Failures, time.Now().Format(time.TimeOnly)+" "+err.Error())
	}
}

func (c *churn) add(f func(r *churned)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.r)
}

func (c *churn) http1() error {
	c.add(func(r *churned) { r.HTTP1++ })
	return fetch(&http.Transport{DisableKeepAlives: true}, c.web, 1)
}

func (c *churn) http2() error {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	c.add(func(r *churned) { r.HTTP2 += perH2; r.HTTP2Conns++ })
	return fetch(&http.Transport{Protocols: p}, c.h2, perH2)
}

func fetch(t *http.Transport, to string, n int) error {
	defer t.CloseIdleConnections()
	client := http.Client{Transport: t, Timeout: 10 * time.Second}
	for range n {
		resp, err := client.Get("http://" + to + "/")
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("get http://%s/: %s, %w", to, resp.Status, err)
		}
	}
	return nil
}

// bytes makes a connection with so many round trips.
func (c *churn) bytes(trips int) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	for range trips {
		if err := c.trip(conn); err != nil {
			return err
		}
	}
	return nil
}

// stay makes a round trip every 50 ms on one connection.
func (c *churn) stay(ctx context.Context) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	for t := time.NewTicker(50 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		if err := c.trip(conn); err != nil {
			return err
		}
	}
}

func (c *churn) dial() (net.Conn, error) {
	c.add(func(r *churned) { r.ByteConns++ })
	return net.DialTimeout("tcp", c.echo, 10*time.Second)
}

func (c *churn) trip(conn net.Conn) error {
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, message) // zeros: no protocol begins so
	if _, err := conn.Write(b); err != nil {
		return err
	}
	c.add(func(r *churned) { r.Bytes += message; r.Trips++ })
	_, err := io.ReadFull(conn, b)
	return err
}
