package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// Times of the look-up: a Service keeps its address for life, so what is known
// stays good while nobody answers.
const (
	lookUpAgain  = 30 * time.Second
	lookUpSoon   = time.Second
	lookUpWithin = 5 * time.Second
)

// controlPlane knows the control plane's addresses.
type controlPlane struct {
	host  string // "" when the addresses were given
	port  uint16
	known atomic.Pointer[[]netip.AddrPort]
	err   atomic.Pointer[error]
	look  func(ctx context.Context, host string) ([]netip.Addr, error)
}

// newControlPlane takes IP:PORT or HOST:PORT.
func newControlPlane(at string) (*controlPlane, error) {
	c := &controlPlane{look: func(ctx context.Context, host string) ([]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}}
	if ap, err := netip.ParseAddrPort(at); err == nil && ap.Port() != 0 {
		c.known.Store(&[]netip.AddrPort{ap})
		return c, nil
	}
	host, port, err := net.SplitHostPort(at)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || host == "" || n == 0 {
		return nil, fmt.Errorf("--control %q: want IP:PORT or HOST:PORT of the control plane", at)
	}
	c.host, c.port = host, uint16(n)
	return c, nil
}

// run keeps the addresses fresh until ctx ends.
func (c *controlPlane) run(ctx context.Context, log *slog.Logger) {
	if c.host == "" {
		return
	}
	said := ""
	for {
		err := c.refresh(ctx)
		if ctx.Err() != nil {
			return
		}
		text, wait := "", lookUpAgain
		if err != nil {
			text = err.Error()
			if c.known.Load() == nil {
				wait = lookUpSoon
			}
		}
		if text != "" && text != said {
			log.Warn("look the control plane's address up", "error", err)
		}
		said = text
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (c *controlPlane) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookUpWithin)
	defer cancel()
	addrs, err := c.look(ctx, c.host)
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("%s has no address", c.host)
	}
	if err != nil {
		c.err.Store(&err)
		return err
	}
	out := make([]netip.AddrPort, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, netip.AddrPortFrom(a.Unmap(), c.port))
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	c.known.Store(&out)
	return nil
}

func (c *controlPlane) addresses() ([]netip.AddrPort, error) {
	if known := c.known.Load(); known != nil {
		return *known, nil
	}
	if err := c.err.Load(); err != nil {
		return nil, fmt.Errorf("the control plane's address is not known yet: %w", *err)
	}
	return nil, fmt.Errorf("the control plane's address (%s) is being looked up", c.host)
}
