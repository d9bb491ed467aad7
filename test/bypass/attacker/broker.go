package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/handover"
	"github.com/tunmesh/tunmesh/internal/hop"
)

func askBroker(target) {
	for _, name := range []string{handover.Address, handover.Address + "\x00", "@/run/tunmesh/agent.sock"} {
		l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: name, Net: "unixpacket"})
		tried(fmt.Sprintf("bind %q", name), err)
		if err == nil {
			if name == handover.Address {
				got("the broker's name")
			}
			l.Close()
		}
	}
	for _, path := range []string{"/run/tunmesh/agent.sock", "/run/tunmesh/keeper.sock"} {
		_, err := net.Dial("unixpacket", path)
		tried("connect "+path, err)
		if err == nil {
			got("the agent's socket %s", path)
		}
	}
	ask()
	robBroker()
}

// robBroker gets a pidfd of whoever listens at the broker's name and tries to get
// in by it.
func robBroker() {
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: handover.Address, Net: "unixpacket"})
	tried("connect to the broker", err)
	if err != nil {
		return
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		tried("its socket", err)
		return
	}
	_ = raw.Control(func(fd uintptr) {
		pidfd, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		tried("pidfd of the broker", err)
		if err != nil {
			return
		}
		defer unix.Close(pidfd)
		rob(pidfd, "the broker")
	})
}

func ask() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	h, err := handover.Receive(ctx, handover.Address)
	tried("ask for the queues", err)
	if err == nil {
		got("queues: %v %v", h.App, h.Wire)
		return true
	}
	if !errors.As(err, new(*handover.RefusedError)) {
		tried("not refused in words", err)
	}
	return false
}

// squat asks for the queues, from new PID namespaces as well, and tries to take
// the broker's name, for as long as it is left alone; the test kills sidecars
// meanwhile.
func squat(target) {
	end := time.Now().Add(10 * time.Minute)
	for n := 0; time.Now().Before(end); n++ {
		if ask() {
			return
		}
		if l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: handover.Address, Net: "unixpacket"}); err == nil {
			got("the broker's name in round %d", n)
			l.Close()
		}
		_ = unix.Unshare(unix.CLONE_NEWPID)
		time.Sleep(time.Millisecond)
	}
}

// forgedALPN offers the mesh's own protocol without a certificate of it, to a
// server that echoes. From a meshed pod this is the app's own TLS and travels as
// bytes, inside mTLS; from elsewhere it must end at the server's sidecar.
func forgedALPN(t target) {
	for _, peer := range t.peers {
		forgeTo(peer, t.marker)
	}
}

func forgeTo(peer, marker string) {
	for _, c := range []struct{ sni, alpn string }{
		{"web.default.sa.cluster.local", hop.ALPNRequests},
		{"web.default.sa.cluster.local", hop.ALPNBytes},
		{"localhost", hop.ALPNBytes},
		{"x", hop.ALPNFamily + "tcp/99"},
		{"x", hop.ALPNFamily},
	} {
		d := &net.Dialer{Timeout: 2 * time.Second}
		conn, err := d.Dial("tcp", peer)
		if err != nil {
			tried("connect "+peer, err)
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		tc := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: c.sni, NextProtos: []string{c.alpn}})
		err = tc.Handshake()
		if err == nil {
			_, _ = tc.Write([]byte(marker))
			// TLS 1.3 tells a client about a refused certificate with its first read.
			_, err = tc.Read(make([]byte, 1))
		}
		tried(fmt.Sprintf("%s SNI %s ALPN %s", peer, c.sni, c.alpn), err)
		if err != nil && strings.Contains(err.Error(), "clientHelloMsg") {
			fmt.Printf("ECHO of the ClientHello by the app behind %s\n", peer)
		}
		if err == nil {
			got("an answer as %s", c.alpn)
		}
		conn.Close()
	}
}
