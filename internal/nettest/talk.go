package nettest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"
)

// Serve answers on TCP and UDP at addr until the test ends: bytes come back
// with the client's address, as the server saw it, and a space before them.
func (s *Space) Serve(addr netip.AddrPort) {
	s.tb.Helper()
	var l net.Listener
	var pc net.PacketConn
	s.must(s.Do(func() (err error) {
		if l, err = net.Listen("tcp", addr.String()); err != nil {
			return err
		}
		pc, err = net.ListenPacket("udp", addr.String())
		return err
	}), "listen at %s", addr)
	done := make(chan struct{}, 2)
	s.tb.Cleanup(func() {
		_ = l.Close()
		_ = pc.Close()
		<-done
		<-done
	})
	go serveTCP(l, done)
	go serveUDP(pc, done)
}

func serveTCP(l net.Listener, done chan<- struct{}) {
	defer func() { done <- struct{}{} }()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go echo(c)
	}
}

func echo(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	from, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return
	}
	if _, err := fmt.Fprintf(c, "%s ", from.Addr().Unmap()); err != nil {
		return
	}
	_, _ = io.Copy(c, c)
}

func serveUDP(pc net.PacketConn, done chan<- struct{}) {
	defer func() { done <- struct{}{} }()
	buf := make([]byte, 64<<10)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		a, err := netip.ParseAddrPort(from.String())
		if err != nil {
			return
		}
		_, _ = pc.WriteTo(append([]byte(a.Addr().Unmap().String()+" "), buf[:n]...), from)
	}
}

// Talk asks a server made by Serve and returns the client's address as it saw
// it; an error is what the network did.
func (s *Space) Talk(network string, to netip.AddrPort, payload []byte, within time.Duration) (seen netip.Addr, err error) {
	var c net.Conn
	err = s.Do(func() (err error) {
		d := net.Dialer{Timeout: within}
		c, err = d.DialContext(context.Background(), network, to.String())
		return err
	})
	if err != nil {
		return seen, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(within))
	go func() { _, _ = c.Write(payload) }()
	var got []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return seen, fmt.Errorf("after %d bytes: %w", len(got), err)
		}
		got = append(got, buf[:n]...)
		for i, b := range got {
			if b != ' ' {
				continue
			}
			if len(got)-i-1 < len(payload) {
				break
			}
			if string(got[i+1:]) != string(payload) {
				return seen, errors.New("what came back is not what was sent")
			}
			return netip.ParseAddr(string(got[:i]))
		}
	}
}

// Ping sends one echo request and waits for the answer of whoever sends it.
func (s *Space) Ping(to netip.Addr, within time.Duration) (from netip.Addr, err error) {
	network, typ, reply := "ip4:icmp", byte(8), byte(0)
	if to.Is6() {
		network, typ, reply = "ip6:ipv6-icmp", 128, 129
	}
	var pc net.PacketConn
	if err := s.Do(func() (err error) {
		pc, err = net.ListenPacket(network, "")
		return err
	}); err != nil {
		return from, err
	}
	defer pc.Close()
	id := uint16(os.Getpid())
	msg := make([]byte, 16)
	msg[0] = typ
	binary.BigEndian.PutUint16(msg[4:], id)
	binary.BigEndian.PutUint16(msg[6:], 1)
	if to.Is4() { // the kernel does it for IPv6
		binary.BigEndian.PutUint16(msg[2:], checksum(msg))
	}
	if _, err := pc.WriteTo(msg, &net.IPAddr{IP: to.AsSlice(), Zone: to.Zone()}); err != nil {
		return from, err
	}
	_ = pc.SetReadDeadline(time.Now().Add(within))
	buf := make([]byte, 1500)
	for {
		n, peer, err := pc.ReadFrom(buf)
		if err != nil {
			return from, err
		}
		if n >= 8 && buf[0] == reply && binary.BigEndian.Uint16(buf[4:]) == id {
			a, _ := netip.AddrFromSlice(peer.(*net.IPAddr).IP)
			return a.Unmap(), nil
		}
	}
}

// checksum is the Internet checksum (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
