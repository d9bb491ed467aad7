package topology

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/nettest"
)

// Sniffer keeps what passes a namespace, to prove what is encrypted.
type Sniffer struct {
	fd   int
	stop chan struct{}
	done chan struct{}
	mu   sync.Mutex
	all  []byte
}

// NewSniffer sees every frame of every interface until Close.
func NewSniffer(s *nettest.Space) (*Sniffer, error) {
	n := &Sniffer{stop: make(chan struct{}), done: make(chan struct{})}
	err := s.Do(func() (err error) {
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
		n.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	_ = unix.SetsockoptInt(n.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	tv := unix.NsecToTimeval(int64(20 * time.Millisecond))
	if err := unix.SetsockoptTimeval(n.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		_ = unix.Close(n.fd)
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	go n.read()
	return n, nil
}

func (n *Sniffer) read() {
	defer close(n.done)
	b := make([]byte, 128<<10)
	for {
		got, _, err := unix.Recvfrom(n.fd, b, 0)
		if err == nil {
			n.mu.Lock()
			n.all = append(n.all, b[:got]...)
			n.mu.Unlock()
			continue
		}
		select { // all that was waiting has been read
		case <-n.stop:
			return
		default:
		}
	}
}

// Saw reports whether a frame had these bytes.
func (n *Sniffer) Saw(what []byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return bytes.Contains(n.all, what)
}

// Close ends it; Saw may be asked afterwards.
func (n *Sniffer) Close() {
	close(n.stop)
	<-n.done
	_ = unix.Close(n.fd)
}
