package load

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Handshakes makes connections with TLS, so many at once: a whole handshake, one
// round trip, close. cfg must not resume. The round trip is size bytes and the
// same back, or with http1 a GET and an answer of size bytes, for servers that
// frame bytes in a manner of their own.
func Handshakes(to netip.AddrPort, cfg *tls.Config, conns, size int, http1 bool, d time.Duration) (Result, error) {
	r := Result{Connections: conns}
	if cfg.ClientSessionCache != nil {
		return r, errors.New("handshakes: the configuration has a cache for sessions, which would be resumed")
	}
	trip := bytesTrip(size)
	if http1 {
		trip = http1Trip(size)
	}
	start := time.Now()
	end := start.Add(warmUp + d)
	ctx, cancel := context.WithDeadline(context.Background(), end)
	defer cancel()
	var mu sync.Mutex
	h, all := newHistogram(), uint64(0)
	var g sync.WaitGroup
	var failed error
	for range conns {
		g.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				err := handshake(ctx, to, cfg, trip)
				mu.Lock()
				switch {
				// Of what is under way at the end, some hear of it before ctx does.
				case err != nil && ctx.Err() == nil && time.Now().Before(end):
					failed = err
					cancel()
				case err == nil:
					if all++; began.Sub(start) >= warmUp {
						h.add(time.Since(began))
					}
				}
				mu.Unlock()
			}
		})
	}
	g.Wait()
	if failed != nil {
		return r, failed
	}
	if all == 0 {
		return r, fmt.Errorf("no handshake with %v was over within %v", to, warmUp+d)
	}
	h.fill(&r, time.Since(start)-warmUp)
	r.All = all
	return r, nil
}

// bytesTrip sends bytes and reads as many.
func bytesTrip(size int) func(*tls.Conn) error {
	return func(t *tls.Conn) error {
		b := make([]byte, size)
		if _, err := t.Write(b); err != nil {
			return err
		}
		_, err := io.ReadFull(t, b)
		return err
	}
}

// http1Trip asks for a body of so many bytes.
func http1Trip(size int) func(*tls.Conn) error {
	ask := fmt.Appendf(nil, "GET /%d HTTP/1.1\r\nHost: bench\r\n\r\n", size)
	return func(t *tls.Conn) error {
		if _, err := t.Write(ask); err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReader(t), nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, resp.Body)
		if err == nil && (resp.StatusCode != http.StatusOK || n != int64(size)) {
			err = fmt.Errorf("asked for %d bytes: %s with %d", size, resp.Status, n)
		}
		return err
	}
}

func handshake(ctx context.Context, to netip.AddrPort, cfg *tls.Config, trip func(*tls.Conn) error) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	t := tls.Client(c, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("handshake with %v: %w", to, err)
	}
	if err := trip(t); err != nil {
		return fmt.Errorf("round trip with %v: %w", to, err)
	}
	return t.Close() // with close_notify: an end without it is a truncation
}
