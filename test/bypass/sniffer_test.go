package bypass_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inNetns runs f on a thread in the network namespace of pid. Sockets made in f
// stay there.
func inNetns(pid int, f func() error) error {
	errs := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			if err = unix.Setns(fd, unix.CLONE_NEWNET); err == nil {
				err = f()
			}
		}
		errs <- err
	}()
	return <-errs
}

// packet is what the judge looks at.
type packet struct {
	src, dst netip.Addr
	proto    byte
	fragment bool
	at       int // where the last header begins
	bytes    []byte
}

func (p packet) String() string {
	return fmt.Sprintf("%v > %v protocol %d, fragment %v, %d bytes", p.src, p.dst, p.proto, p.fragment, len(p.bytes))
}

// parse reads an IP packet; extension headers of IPv6 are walked.
func parse(b []byte) (packet, bool) {
	if len(b) < 20 {
		return packet{}, false
	}
	if b[0]>>4 == 4 {
		src, dst := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		frag := binary.BigEndian.Uint16(b[6:])&0x3fff != 0
		if n := int(binary.BigEndian.Uint16(b[2:])); n >= 20 && n < len(b) {
			b = b[:n] // without the padding of a short frame
		}
		return packet{src, dst, b[9], frag, min(int(b[0]&15)*4, len(b)), b}, true
	}
	if b[0]>>4 != 6 || len(b) < 40 {
		return packet{}, false
	}
	p := packet{src: netip.AddrFrom16([16]byte(b[8:24])), dst: netip.AddrFrom16([16]byte(b[24:40])), proto: b[6], at: 40, bytes: b}
	if n := 40 + int(binary.BigEndian.Uint16(b[4:])); n > 40 && n < len(b) {
		p.bytes = b[:n]
	}
	rest := p.bytes[40:]
	for len(rest) >= 8 {
		switch p.proto {
		case 0, 43, 60, 135:
			n := 8 * (int(rest[1]) + 1)
			if n > len(rest) {
				return p, true
			}
			p.proto, p.at, rest = rest[0], p.at+n, rest[n:]
		case 44:
			p.fragment = true
			p.proto, p.at, rest = rest[0], p.at+8, rest[8:]
		default:
			return p, true
		}
	}
	return p, true
}

// sniffer sees every frame of every interface of the node's namespace but lo.
type sniffer struct {
	fd   int
	done chan struct{}
	mu   sync.Mutex
	seen []packet
}

func newSniffer(t *testing.T, pid int) *sniffer {
	t.Helper()
	s := &sniffer{fd: -1, done: make(chan struct{})}
	err := inNetns(pid, func() (err error) {
		s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		return err
	})
	if err != nil {
		t.Fatalf("open a packet socket in the node's namespace: %v", err)
	}
	tv := unix.NsecToTimeval(int64(50 * time.Millisecond))
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		t.Fatal(err)
	}
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	stop := make(chan struct{})
	go s.read(stop)
	t.Cleanup(func() {
		close(stop)
		<-s.done
		unix.Close(s.fd)
	})
	return s
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func (s *sniffer) read(stop <-chan struct{}) {
	defer close(s.done)
	b := make([]byte, 1<<17)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, from, err := unix.Recvfrom(s.fd, b, 0)
		if err != nil || n < 14 {
			continue
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Hatype == unix.ARPHRD_LOOPBACK {
			continue // the node with itself: what comes from a pod comes by another device
		}
		if p, ok := parse(bytes.Clone(b[14:n])); ok {
			s.mu.Lock()
			s.seen = append(s.seen, p)
			s.mu.Unlock()
		}
	}
}

// take returns and forgets what was seen.
func (s *sniffer) take() []packet {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.seen
	s.seen = nil
	return out
}

// sink listens on addresses of the mesh's range that are no pod's.
type sink struct {
	mu   sync.Mutex
	from []string
}

func newSink(t *testing.T, pid int, addrs []netip.Addr, port uint16) *sink {
	t.Helper()
	s := &sink{}
	for _, a := range addrs {
		var l net.Listener
		err := inNetns(pid, func() (err error) {
			l, err = net.Listen("tcp", netip.AddrPortFrom(a, port).String())
			return err
		})
		if err != nil {
			t.Fatalf("listen at %v in the node's namespace: %v", a, err)
		}
		t.Cleanup(func() { l.Close() })
		go s.accept(l)
	}
	return s
}

func (s *sink) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.from = append(s.from, c.RemoteAddr().String())
		s.mu.Unlock()
		c.Close()
	}
}

func (s *sink) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.from
	s.from = nil
	return out
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: runs pods in namespaces")
	}
}
