// Command hop is one netstack between two TUN queues that are inherited as
// descriptors 3 (app) and 4 (wire): every connection is dialled on the other
// side, accepted, and copied. It is what a sidecar's opaque TCP costs without
// discovery, identity and metrics. On SIGUSR1 it prints its counters as JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack"
)

func main() {
	addr := flag.String("addr", "", "the pod's address")
	mtu := flag.Int("mtu", 1500, "of both TUNs")
	spin := flag.Duration("spin", 0, "poll so long before parking, at most 20µs")
	profile := flag.String("cpuprofile", "", "write a CPU profile to this file")
	flag.Parse()
	if err := run(*addr, *mtu, *spin, *profile); err != nil {
		fmt.Fprintln(os.Stderr, "hop: error:", err)
		os.Exit(1)
	}
}

func run(addr string, mtu int, spin time.Duration, profile string) error {
	pod, err := netip.ParseAddr(addr)
	if err != nil {
		return err
	}
	devs, err := netstack.OpenQueues([]int{3, 4})
	if err != nil {
		return err
	}
	s, err := netstack.New(netstack.Config{App: devs[:1], Wire: devs[1:], Addrs: []netip.Addr{pod}, MTU: mtu, Spin: spin, OnSYN: onSYN})
	if err != nil {
		return err
	}
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ask := make(chan os.Signal, 1)
	signal.Notify(ask, syscall.SIGUSR1)
	go report(s, ask)
	return s.Run(ctx)
}

func report(s *netstack.Stack, ask <-chan os.Signal) {
	for range ask {
		_ = json.NewEncoder(os.Stdout).Encode(s.Counters()) // the reader notices what is missing
	}
}

func onSYN(p *netstack.Pending) {
	src, side := p.Src, aio.Wire
	if p.Side == aio.Wire {
		side = aio.App
	} else {
		src = netip.AddrPortFrom(src.Addr(), 0)
	}
	p.Loop().Dial(aio.DialRequest{Side: side, Src: src, Dst: p.Dst, Timeout: 5 * time.Second, Done: func(up aio.Conn, err error) {
		if err != nil {
			p.Refuse()
			return
		}
		down, err := p.Accept()
		if err != nil {
			up.Reset()
			return
		}
		h := &half{from: down, to: up}
		h.back = &half{from: up, to: down, back: h}
		down.SetHandler(h)
		up.SetHandler(h.back)
	}})
}

// half copies one direction; it is the handler of the connection it reads.
type half struct {
	from, to aio.Conn
	back     *half
	eof      bool
}

func (h *half) Readable(aio.Conn) {
	if h.eof {
		return
	}
	_, err, _ := h.from.(aio.Copier).CopyTo(h.to)
	switch {
	case err == nil, errors.Is(err, aio.ErrWouldBlock):
	case errors.Is(err, io.EOF):
		h.eof = true
		_ = h.to.CloseWrite() // fails only when it broke, which it says itself
	default:
		h.from.Reset()
		h.to.Reset()
	}
}

func (h *half) Writable(c aio.Conn) { h.back.Readable(c) }

func (h *half) Closed(_ aio.Conn, err error) {
	if err != nil {
		h.to.Reset()
	}
}
