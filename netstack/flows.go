package netstack

import (
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/tunmesh/tunmesh/internal/aio"
)

// flowKey names a connection on one side, as the packets that arrive for it
// carry it: fixed size and without pointers, so that a lookup hashes 36 bytes.
type flowKey struct {
	remote, local         [16]byte // IPv4 mapped
	remotePort, localPort uint16
}

func keyOf(remote, local netip.AddrPort) flowKey {
	return flowKey{remote.Addr().As16(), local.Addr().As16(), remote.Port(), local.Port()}
}

// key4 reads the key of a whole IPv4 TCP segment whose header has 20 bytes.
func key4(b []byte) (k flowKey) {
	k.remote[10], k.remote[11], k.local[10], k.local[11] = 0xff, 0xff, 0xff, 0xff
	copy(k.remote[12:], b[12:16])
	copy(k.local[12:], b[16:20])
	k.remotePort = uint16(b[20])<<8 | uint16(b[21])
	k.localPort = uint16(b[22])<<8 | uint16(b[23])
	return k
}

// key6 reads the key of a whole IPv6 TCP segment without extension headers.
func key6(b []byte) (k flowKey) {
	copy(k.remote[:], b[8:24])
	copy(k.local[:], b[24:40])
	k.remotePort = uint16(b[40])<<8 | uint16(b[41])
	k.localPort = uint16(b[42])<<8 | uint16(b[43])
	return k
}

func endpointID(remote, local netip.AddrPort) stack.TransportEndpointID {
	return stack.TransportEndpointID{
		RemoteAddress: address(remote.Addr()), RemotePort: remote.Port(),
		LocalAddress: address(local.Addr()), LocalPort: local.Port(),
	}
}

func address(a netip.Addr) tcpip.Address {
	if a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

func addrPort(a tcpip.Address, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(addr, port)
}

// directory says which loop a flow lives on. The kernel steers a flow to the
// queue it was last written from, but forgets after three idle seconds: then a
// packet may arrive at any queue, and the loop that reads it looks here. Only
// stacks of several loops have one.
type directory struct {
	mu sync.RWMutex
	m  [2]map[flowKey]*loop
}

func newDirectory() *directory {
	return &directory{m: [2]map[flowKey]*loop{{}, {}}}
}

func (d *directory) add(side aio.Side, k flowKey, l *loop) {
	if d == nil {
		return
	}
	d.mu.Lock()
	d.m[side][k] = l
	d.mu.Unlock()
}

func (d *directory) remove(side aio.Side, k flowKey, l *loop) {
	if d == nil {
		return
	}
	d.mu.Lock()
	if d.m[side][k] == l {
		delete(d.m[side], k)
	}
	d.mu.Unlock()
}

// owner is the loop of a flow, or nil.
func (d *directory) owner(side aio.Side, k flowKey) *loop {
	if d == nil {
		return nil
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.m[side][k]
}
