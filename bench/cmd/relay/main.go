// Command relay accepts the connections that the kernel redirects to it, dials
// where they were going, and copies: what a sidecar in Go on kernel sockets
// costs at least, and the yardstick for one that has no redirection.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	buffer := flag.Int("buffer", 0, "copy through a buffer of so many bytes; 0 leaves it to io.Copy, which splices")
	var listen []string
	flag.Func("listen", "address to accept redirected connections at; repeat it for several (default :15001)", func(s string) error {
		listen = append(listen, s)
		return nil
	})
	mark := flag.Int("mark", 0, "socket mark of outgoing connections, which must not be redirected again")
	flag.Parse()
	if len(listen) == 0 {
		listen = []string{":15001"}
	}
	if err := run(listen, flag.Args(), *mark, *buffer); err != nil {
		fmt.Fprintln(os.Stderr, "relay: error:", err)
		os.Exit(1)
	}
}

// run serves what is redirected to listen; or, if pairs LISTEN=TARGET are given,
// what is dialled at them.
func run(listen, pairs []string, mark, buffer int) error {
	control := func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			// Without the right to choose it stays what it is, as for the other ends.
			_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark)
		})
		return errors.Join(err, failed)
	}
	lc, d := net.ListenConfig{Control: control}, &net.Dialer{Control: control, Timeout: 5 * time.Second}
	ended := make(chan error, len(pairs)+len(listen))
	if len(pairs) == 0 {
		for _, at := range listen {
			go func() {
				ended <- serve(lc, at, func(c *net.TCPConn) {
					to, err := target(c)
					relay(c, d, to, err, buffer)
				})
			}()
		}
	}
	for _, p := range pairs {
		at, to, ok := strings.Cut(p, "=")
		if !ok {
			return fmt.Errorf("%q: need LISTEN=TARGET", p)
		}
		go func() { ended <- serve(lc, at, func(c *net.TCPConn) { relay(c, d, to, nil, buffer) }) }()
	}
	return <-ended
}

func serve(lc net.ListenConfig, listen string, each func(*net.TCPConn)) error {
	l, err := lc.Listen(context.Background(), "tcp4", listen)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go each(c.(*net.TCPConn))
	}
}

// target is where a redirected connection was going.
func target(c *net.TCPConn) (addr string, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return "", err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		// SO_ORIGINAL_DST answers with a sockaddr_in, for which this option's
		// structure has the room.
		var m *unix.IPv6Mreq
		if m, failed = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST); failed == nil {
			b := m.Multiaddr
			addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3])).String()
		}
	})
	return addr, errors.Join(err, failed)
}

func relay(c *net.TCPConn, d *net.Dialer, to string, err error, buffer int) {
	var up net.Conn
	if err == nil {
		up, err = d.Dial("tcp4", to)
	}
	if err != nil {
		_ = c.Close()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		transfer(up, c, buffer)
	}()
	transfer(c, up, buffer)
	<-done
	_ = up.Close()
	_ = c.Close()
}

func transfer(to, from net.Conn, buffer int) {
	if buffer > 0 {
		_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, buffer))
	} else {
		_, _ = io.Copy(to, from)
	}
	_ = to.(*net.TCPConn).CloseWrite()
}
