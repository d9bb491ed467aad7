package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/test/siege/attack"
)

// play attacks until the input ends. NAME is one of package attack's.
func play(name, ip string) error {
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	for _, p := range attack.Packets() {
		if p.Name == name {
			return shower(ctx, p, ip)
		}
	}
	// The castle's identity: a pod's of namespace default with no account of its own.
	castle := spiffe.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "default"}
	greeting, err := attack.Hello(castle.ServerName())
	if err != nil {
		return err
	}
	for _, a := range append(attack.Floods(), attack.Sieges(greeting)...) {
		if a.Name != name {
			continue
		}
		port, err := portOf(a.App)
		if err != nil {
			return err
		}
		if a.Bystander {
			port = bystanderPort
		}
		replay(ctx, a.Replay, net.JoinHostPort(ip, strconv.Itoa(port)))
		return nil
	}
	return fmt.Errorf("no attack %q", name)
}

// replay begins connections until ctx ends.
func replay(ctx context.Context, r attack.Replay, to string) {
	r = r.Whole()
	under := make(chan struct{}, r.AtOnce)
	var wg sync.WaitGroup
	defer wg.Wait()
	var tick <-chan time.Time
	if r.Every > 0 {
		t := time.NewTicker(r.Every)
		defer t.Stop()
		tick = t.C
	}
	for {
		for range r.Begin {
			select {
			case under <- struct{}{}:
				wg.Go(func() {
					defer func() { <-under }()
					one(ctx, r, to)
				})
			default:
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
	}
}

// one is a connection, until either side has had enough.
func one(ctx context.Context, r attack.Replay, to string) {
	c, err := (&net.Dialer{Timeout: 20 * time.Second}).DialContext(ctx, "tcp", to)
	if err != nil {
		return
	}
	_ = c.(*net.TCPConn).SetLinger(0) // over is over: a reset
	if r.Gives > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Gives)
		defer cancel()
	}
	ctx, over := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { // it reads, or, deaf, only notices nothing
		if r.Deaf {
			<-ctx.Done()
			return
		}
		_, _ = io.Copy(io.Discard, c)
		over()
	})
	wg.Go(func() {
		if _, err := c.Write(r.Bytes); err != nil {
			over()
			return
		}
		if r.Gap == 0 {
			return
		}
		t := time.NewTicker(r.Gap)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				if _, err := c.Write(r.Then); err != nil {
					over()
					return
				}
			}
		}
	})
	<-ctx.Done()
	over()
	c.Close()
	wg.Wait()
}
