package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Handshakes makes connections with TLS, so many at once: a whole handshake, one
// round trip, close. cfg must not resume.
func Handshakes(to netip.AddrPort, cfg *tls.Config, conns, size int, d time.Duration) (Result, error) {
	r := Result{Connections: conns}
	if cfg.ClientSessionCache != nil {
		return r, errors.New("handshakes: the configuration has a cache for sessions, which would be resumed")
	}
	ctx, cancel := context.WithTimeout(context.Background(), warmUp+d)
	defer cancel()
	start := time.Now()
	var mu sync.Mutex
	h, all := newHistogram(), uint64(0)
	var g sync.WaitGroup
	var failed error
	for range conns {
		g.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				err := handshake(ctx, to, cfg, size)
				mu.Lock()
				switch {
				case err != nil && ctx.Err() == nil:
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
	h.fill(&r, time.Since(start)-warmUp)
	r.All = all
	return r, nil
}

func handshake(ctx context.Context, to netip.AddrPort, cfg *tls.Config, size int) error {
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
	b := make([]byte, size)
	if _, err := t.Write(b); err != nil {
		return fmt.Errorf("send to %v: %w", to, err)
	}
	if _, err := io.ReadFull(t, b); err != nil {
		return fmt.Errorf("read from %v: %w", to, err)
	}
	return t.Close() // with close_notify: an end without it is a truncation
}
