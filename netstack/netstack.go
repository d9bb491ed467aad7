// Package netstack is a TCP/IP stack between two TUN devices: the app side,
// which is the pod's own network namespace, and the wire side, which is the
// network. It owns TCP on both sides (every connection is terminated here),
// forwards UDP and ICMP between the sides packet by packet, drops what may not
// pass and counts it by reason. It refuses to know what connections are for:
// it hands out pending connections and takes dials. It is the only door to
// gVisor.
//
// Threading. One loop goroutine per pair of queues (app i, wire i), with a
// gVisor stack of its own. A connection lives on one loop, with all its timers;
// packet in, TCP, the user's handler and packet out run on that goroutine, so
// nothing here has a lock that two goroutines want. gVisor's own processor
// goroutines exist and sleep (see inline.go). A pass of a loop:
//
//  1. read up to 64 packets of the app side, then of the wire side; each goes to
//     its connection, to the other side, to Config.OnSYN or nowhere;
//  2. run timers that are due, and functions that were posted;
//  3. call the handlers of connections with news, then deferred functions;
//  4. write what the stack sent, then ACKs that waited too long;
//  5. with nothing left to read: send all held ACKs and wait in epoll.
package netstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/packet"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

// Device is one queue of a TUN device, or an end of a memory link.
type Device = tun.Device

// Config describes a stack. Fields without a default are required.
type Config struct {
	// App and Wire are the queues of the two sides, one pair per loop. The
	// stack owns them once New has succeeded, and closes them when Run returns.
	App, Wire []Device
	// Addrs are the pod's addresses: the only sources on the app side and the
	// only destinations on the wire side.
	Addrs []netip.Addr
	// MTU of both devices in bytes, 1280 to 65535.
	MTU int
	// AllowProtocols are IP protocol numbers that are forwarded like UDP.
	AllowProtocols []uint8
	// OnSYN is called on a loop with every new connection; it must end in
	// Accept, Refuse or Drop, now or later on that loop. Nil refuses all.
	OnSYN func(*Pending)
	// OnUDP, if set, is called on a loop with every UDP packet that is about to be
	// forwarded, of one in pieces with the first: where it came from, its size with
	// headers, and the beginning of its payload, which is borrowed.
	OnUDP func(from aio.Side, src, dst netip.AddrPort, size int, payload []byte)
	// MaxPending bounds, for each side and loop, the connections that were not
	// answered or whose handshake is not over; on the wire side no client gets
	// more of them than are free. Beyond, SYNs are dropped (the client tries
	// again), but for one every 5 ms that takes the place of a handshake that no
	// client has ended for 3 s. Default 4096.
	MaxPending int
	// MaxConns bounds, for each side, the connections that clients have opened
	// there; on the wire side no client gets more of them than are free. Beyond,
	// clients are refused. They are shared evenly among the loops. Default 16384.
	MaxConns int
	// Reserved, if not 0, is a port of the pod whose clients from the wire need no
	// place of others: 128 may be there on each loop, and 128 begin, of which no
	// client gets more than are free.
	Reserved uint16
	// MaxHeld bounds the bytes in the buffers of all connections together, both
	// sides and directions; see memory.go for who has to wait. It is shared
	// evenly among the loops. Default 64 MiB.
	MaxHeld int
	// PendingTimeout drops a pending connection that nobody answered. Default 30 s.
	PendingTimeout time.Duration
	// Spin is how long a loop polls before it parks, at most 20 µs: lower
	// latency at low load for CPU. Default 0.
	Spin time.Duration
	// Unseen is how long a loop may sleep without the scheduler's knowledge, at
	// most 9 ms. While it does, the goroutines of this process have a processor
	// less, so that more than the default is for processes whose processors
	// outnumber their loops. Default 100 µs.
	Unseen time.Duration
	// Logger takes what happens to the whole stack; nothing is logged per
	// connection or packet. Default: discard.
	Logger *slog.Logger
}

func (c *Config) validate() error {
	switch {
	case len(c.App) == 0 || len(c.App) != len(c.Wire):
		return fmt.Errorf("new stack: %d app queues and %d wire queues: need as many, at least one", len(c.App), len(c.Wire))
	case len(c.App) > maxLoops:
		return fmt.Errorf("new stack: %d queues: at most %d", len(c.App), maxLoops)
	case len(c.Addrs) == 0:
		return errors.New("new stack: the pod has no address")
	case c.MTU < 1280 || c.MTU > tun.MaxPacket:
		return fmt.Errorf("new stack: mtu %d: need 1280 to %d", c.MTU, tun.MaxPacket)
	case c.Spin < 0 || c.Spin > 20*time.Microsecond:
		return fmt.Errorf("new stack: spin %v: need 0 to 20µs", c.Spin)
	case c.Unseen < 0 || c.Unseen > maxUnseen:
		return fmt.Errorf("new stack: unseen sleep of %v: need 0 to %v", c.Unseen, maxUnseen)
	}
	for _, a := range c.Addrs {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Zone() != "" {
			return fmt.Errorf("new stack: %v cannot be a pod's address", a)
		}
	}
	if c.MaxPending == 0 {
		c.MaxPending = 4096
	}
	if c.MaxConns == 0 {
		c.MaxConns = 16384
	}
	if c.MaxHeld == 0 {
		c.MaxHeld = 64 << 20
	}
	if c.Unseen == 0 {
		c.Unseen = unseen
	}
	if c.PendingTimeout == 0 {
		c.PendingTimeout = 30 * time.Second
	}
	if c.OnSYN == nil {
		c.OnSYN = (*Pending).Refuse
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// maxLoops bounds the number of queue pairs: each takes a share of the
// ephemeral ports.
const maxLoops = 16

// Stack is a running or about to run stack.
type Stack struct {
	cfg   Config
	rules *packet.Rules
	loops []*loop
	flows *directory // which loop has a flow; nil with one loop
}

// OpenQueues opens a TUN device's queues from their file descriptors, which
// must come attached, with IFF_NO_PI and IFF_VNET_HDR. It takes all of them:
// after an error those are closed.
func OpenQueues(fds []int) ([]Device, error) {
	var devs []Device
	for i, fd := range fds {
		q, err := tun.Open(fd)
		if err != nil {
			for _, d := range devs {
				err = errors.Join(err, d.Close())
			}
			return nil, fmt.Errorf("open queue %d of %d: %w", i, len(fds), err)
		}
		devs = append(devs, q)
	}
	return devs, nil
}

// New makes a stack. Nothing runs before Run; functions posted before are kept.
func New(cfg Config) (*Stack, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Stack{cfg: cfg, rules: packet.NewRules(cfg.Addrs, cfg.AllowProtocols)}
	if len(cfg.App) > 1 {
		s.flows = newDirectory()
	}
	for i := range cfg.App {
		l, err := newLoop(s, i)
		if err != nil {
			for _, l := range s.loops {
				l.closeFDs()
			}
			return nil, err
		}
		s.loops = append(s.loops, l)
	}
	return s, nil
}

// Run serves both sides until ctx is done (then it returns nil, having reset
// every connection that is left) or a device is gone for good. It must be
// called once.
func (s *Stack) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, len(s.loops))
	for i, l := range s.loops {
		wg.Go(func() {
			defer cancel() // one loop's end is everybody's
			errs[i] = l.run(ctx)
		})
	}
	wg.Wait()
	return errors.Join(errors.Join(errs...), s.closeDevices())
}

func (s *Stack) closeDevices() error {
	var err error
	for i := range s.cfg.App {
		err = errors.Join(err, s.cfg.App[i].Close(), s.cfg.Wire[i].Close())
	}
	for _, l := range s.loops {
		l.closeFDs()
	}
	return err
}

// Loops are the stack's event loops, one per pair of queues.
func (s *Stack) Loops() []aio.Loop {
	out := make([]aio.Loop, len(s.loops))
	for i, l := range s.loops {
		out[i] = l
	}
	return out
}

// DialContext dials for a goroutine: a blocking connection from src (port 0
// means an ephemeral one) to dst on a side. ctx bounds the handshake only, and
// at most a minute.
func (s *Stack) DialContext(ctx context.Context, side aio.Side, src, dst netip.AddrPort) (net.Conn, error) {
	timeout := time.Minute
	if t, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(t))
	}
	if err := ctx.Err(); err != nil || timeout <= 0 {
		return nil, fmt.Errorf("dial %v on the %v side: %w", dst, side, errors.Join(err, aio.ErrTimeout))
	}
	type result struct {
		c   net.Conn
		err error
	}
	answer := make(chan result, 1) // the loop sends once
	l := s.loops[0]
	var cancel func()
	if !l.Post(func() {
		cancel = l.Dial(aio.DialRequest{Side: side, Src: src, Dst: dst, Timeout: timeout, Done: func(c aio.Conn, err error) {
			if err != nil {
				answer <- result{nil, err}
				return
			}
			answer <- result{aio.NetConn(c), nil}
		}})
	}) {
		return nil, fmt.Errorf("dial %v on the %v side: the stack has ended: %w", dst, side, aio.ErrClosed)
	}
	var r result
	select {
	case r = <-answer:
	case <-ctx.Done():
		l.Post(func() { cancel() })
		if r = <-answer; r.err != nil {
			r.err = errors.Join(ctx.Err(), r.err)
		}
	}
	if r.err != nil {
		return nil, fmt.Errorf("dial %v on the %v side: %w", dst, side, r.err)
	}
	return r.c, nil
}
