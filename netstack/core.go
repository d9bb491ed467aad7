package netstack

import (
	"fmt"
	"math"
	"net/netip"
	"time"
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/tunmesh/tunmesh/internal/aio"
)

const (
	// Buffers of a connection in each direction; bufferMax is for bulk, see
	// transfer.go. gVisor advertises half of the receive buffer.
	bufferMin, bufferDefault, bufferMax = 4 << 10, 256 << 10, 4 << 20

	// Dead peers. Unacknowledged bytes: ten retransmissions, at most 8 s apart,
	// so 45 to 80 s. (TCP_USER_TIMEOUT would also end a connection whose reader
	// merely pauses.) Idle connections: 60 s and three probes.
	maxRTO            = 8 * time.Second
	maxRetries        = 10
	keepaliveIdle     = 60 * time.Second
	keepaliveInterval = 10 * time.Second
	keepaliveCount    = 3

	// Ephemeral ports, cut into equal shares when there are several loops.
	firstPort, lastPort = 16000, 65535
)

func nicOf(side aio.Side) tcpip.NICID { return tcpip.NICID(side) + 1 }
func sideOf(nic tcpip.NICID) aio.Side { return aio.Side(nic - 1) }

// core is a loop's gVisor stack.
type core struct {
	stack  *stack.Stack
	tcp    *inlineTCP
	listen unsafe.Pointer // gVisor's listenContext
}

func (c *core) start(l *loop) (err error) {
	if l.memory.at, err = findOffsets(); err != nil {
		return err
	}
	s := stack.New(stack.Options{
		Clock: l.clock,
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocol,
			// Nothing of its own on the link: no address, neighbour or group.
			ipv6.NewProtocolWithOptions(ipv6.Options{}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{newInlineTCP},
	})
	c.stack = s
	c.tcp = s.TransportProtocolInstance(tcp.ProtocolNumber).(*inlineTCP)
	c.tcp.loop = l
	c.listen = c.tcp.listen(bufferDefault)
	if err := c.options(); err != nil {
		return err
	}
	for _, side := range sides {
		if err := s.CreateNICWithOptions(nicOf(side), l.links[side], stack.NICOptions{Name: side.String(), QDisc: l.links[side]}); err != nil {
			return fmt.Errorf("create the %v interface: %s", side, err)
		}
		// Any address may be spoken to and from: connections of the app go to the
		// whole world and are answered in its name.
		if err := s.SetPromiscuousMode(nicOf(side), true); err != nil {
			return fmt.Errorf("open the %v interface: %s", side, err)
		}
		if err := s.SetSpoofing(nicOf(side), true); err != nil {
			return fmt.Errorf("open the %v interface: %s", side, err)
		}
	}
	if err := c.addresses(l.s.cfg.Addrs); err != nil {
		return err
	}
	share := (lastPort - firstPort + 1) / len(l.s.cfg.App)
	first := firstPort + l.id*share
	if err := s.SetPortRange(uint16(first), uint16(first+share-1)); err != nil {
		return fmt.Errorf("set the ephemeral ports: %s", err)
	}
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, l.unknownTCP)
	return nil
}

func (c *core) options() error {
	sack, moderate := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true)
	// RACK's tail probes fire against the 40 ms delayed ACK of Linux.
	recovery := tcpip.TCPRecovery(0)
	// A SYN that reuses a tuple in TIME_WAIT would be dropped: nobody listens.
	timeWait := tcpip.TCPTimeWaitTimeoutOption(0)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: bufferMin, Default: bufferDefault, Max: bufferMax}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: bufferMin, Default: bufferDefault, Max: bufferMax}
	rto, retries := tcpip.TCPMaxRTOOption(maxRTO), tcpip.TCPMaxRetriesOption(maxRetries)
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &recovery, &timeWait, &receive, &send, &rto, &retries} {
		if err := c.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("set tcp option %T: %s", o, err)
		}
	}
	return nil
}

// addresses gives the wire side the pod's addresses (without, every packet would
// search the temporary ones) and routes: the pod on the app side, the rest of
// the world on the wire.
func (c *core) addresses(addrs []netip.Addr) error {
	var routes []tcpip.Route
	for _, a := range addrs {
		a = a.Unmap()
		proto := header.IPv6ProtocolNumber
		if a.Is4() {
			proto = header.IPv4ProtocolNumber
		}
		prefix := tcpip.AddressWithPrefix{Address: address(a), PrefixLen: a.BitLen()}
		if err := c.stack.AddProtocolAddress(nicOf(aio.Wire), tcpip.ProtocolAddress{Protocol: proto, AddressWithPrefix: prefix}, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("add address %v: %s", a, err)
		}
		routes = append(routes, tcpip.Route{Destination: prefix.Subnet(), NIC: nicOf(aio.App)})
	}
	for _, all := range []tcpip.Subnet{header.IPv4EmptySubnet, header.IPv6EmptySubnet} {
		routes = append(routes, tcpip.Route{Destination: all, NIC: nicOf(aio.Wire)})
	}
	c.stack.SetRouteTable(routes)
	return nil
}

// unassembled is how many of a side's TCP segments in pieces gVisor gave up. It
// says "time exceeded" for nothing else.
func (c *core) unassembled(side aio.Side) (n uint64) {
	for _, s := range c.stack.NICInfo()[nicOf(side)].NetworkStats {
		switch s := s.(type) {
		case *ipv4.Stats:
			n += s.IP.MalformedFragmentsReceived.Value() + s.ICMP.PacketsSent.TimeExceeded.Value()
		case *ipv6.Stats:
			n += s.IP.MalformedFragmentsReceived.Value() + s.ICMP.PacketsSent.TimeExceeded.Value()
		}
	}
	return n
}

// reset answers a segment with RST. It borrows pkt.
func (c *core) reset(id stack.TransportEndpointID, pkt *stack.PacketBuffer) {
	c.tcp.HandleUnknownDestinationPacket(id, pkt)
}

func (c *core) stop() {
	if c.stack == nil {
		return
	}
	c.stack.Destroy()
}

// tooBig is the error by which an endpoint learns the path's MTU.
type tooBig struct{ mtu uint32 }

// Kind implements stack.TransportError.
func (tooBig) Kind() stack.TransportErrorKind { return stack.PacketTooBigTransportError }

// Origin implements tcpip.SockErrorCause.
func (tooBig) Origin() tcpip.SockErrOrigin { return tcpip.SockExtErrorOriginNone }

// Type implements tcpip.SockErrorCause.
func (tooBig) Type() uint8 { return 0 }

// Code implements tcpip.SockErrorCause.
func (tooBig) Code() uint8 { return 0 }

// Info implements tcpip.SockErrorCause: the MTU without the IP header.
func (e tooBig) Info() uint32 { return min(e.mtu, math.MaxUint16) }
