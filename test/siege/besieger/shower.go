package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/test/siege/attack"
)

// shower sends packets as they are until ctx ends. It needs CAP_NET_RAW.
func shower(ctx context.Context, f attack.Flood, ip string) error {
	pod, err := netip.ParseAddr(ip)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("open a raw socket: %w", err)
	}
	defer unix.Close(fd)
	to := attack.Target{
		Open: netip.AddrPortFrom(pod, victimPort), Closed: netip.AddrPortFrom(pod, 99),
		Nobody: netip.MustParseAddrPort("203.0.113.1:80"),
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := int(time.Now().UnixMilli() & 0xfffff); ; {
		for range attack.PacketRate {
			p := f.Next(i, to)
			attack.Checksum(p)
			dst := unix.SockaddrInet4{Addr: [4]byte(p[16:20])}
			if err := unix.Sendto(fd, p, 0, &dst); err != nil && err != unix.ENOBUFS {
				return fmt.Errorf("send a packet to %v: %w", dst.Addr, err)
			}
			i++
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
