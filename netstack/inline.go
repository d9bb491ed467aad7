package netstack

// TCP on the loop's own goroutine.
//
// gVisor hands every segment to a processor goroutine, and every handshake to
// one more. Here a segment is queued on its endpoint and handled at once by the
// function that the processor would have called; nothing is copied from gVisor,
// nothing about TCP is decided. It is worth 10 to 15 % of a round trip, and it
// makes the loop the only goroutine that ever touches an endpoint: no callback,
// packet or timer comes from anywhere else.
//
// The functions are not exported; inline_test.go fails when the pinned version
// of gVisor changes, and says what to compare. What must hold there:
//
//   - newIncomingSegment and enqueueSegment are what dispatcher.queuePacket does
//     before it wakes a processor; enqueueSegment keeps a reference of its own.
//   - handleConnecting, handleConnected and handleTimeWait are the processor's
//     cases; they lock the endpoint themselves and return with it unlocked.
//   - handleConnecting wakes a processor when the ACK that completes a handshake
//     also carries bytes. segment sends the bare ACK first, so it never does.
//   - handleSegmentLocked is the middle of handleConnected's loop, for one segment
//     whose owner was set as enqueueSegment does. In ESTABLISHED, a segment with
//     bytes and no flag but ACK and PSH has no outcome but "go on".
//   - handleConnected with an empty queue sends the ACK that is owed.
//   - purgePending drops the segments that came out of order. gVisor does so at a
//     reset; an endpoint whose peer never closes (FIN_WAIT2) ends with them.
//   - startHandshake sends the SYN-ACK and returns without waiting; the first
//     field of the handshake it returns is the endpoint. (ForwarderRequest's
//     CreateEndpoint is the same and a blocked goroutine.)
//
// Every other way into TCP ends in the transport protocol's QueuePacket, which
// inlineTCP overrides: a segment that gVisor reassembled from fragments is
// handled on the loop, too.

import (
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// gvisorPin is the version that the declarations below were read against.
const gvisorPin = "v0.0.0-20260905035102-160fafc42237"

//go:linkname newIncomingSegment gvisor.dev/gvisor/pkg/tcpip/transport/tcp.newIncomingSegment
func newIncomingSegment(id stack.TransportEndpointID, clock tcpip.Clock, pkt *stack.PacketBuffer) (unsafe.Pointer, error)

//go:linkname segmentDecRef gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*segment).DecRef
func segmentDecRef(segment unsafe.Pointer)

//go:linkname enqueueSegment gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*Endpoint).enqueueSegment
func enqueueSegment(ep *tcp.Endpoint, segment unsafe.Pointer) bool

//go:linkname handleConnecting gvisor.dev/gvisor/pkg/tcpip/transport/tcp.handleConnecting
func handleConnecting(ep *tcp.Endpoint)

//go:linkname handleConnected gvisor.dev/gvisor/pkg/tcpip/transport/tcp.handleConnected
func handleConnected(ep *tcp.Endpoint)

//go:linkname segmentSetOwner gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*segment).setOwner
func segmentSetOwner(segment unsafe.Pointer, ep *tcp.Endpoint, queue uint8)

//go:linkname handleSegmentLocked gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*Endpoint).handleSegmentLocked
func handleSegmentLocked(ep *tcp.Endpoint, segment unsafe.Pointer) (bool, tcpip.Error)

//go:linkname handleTimeWait gvisor.dev/gvisor/pkg/tcpip/transport/tcp.handleTimeWait
func handleTimeWait(ep *tcp.Endpoint)

//go:linkname purgePending gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*Endpoint).purgePendingRcvQueue
func purgePending(ep *tcp.Endpoint)

//go:linkname newListenContext gvisor.dev/gvisor/pkg/tcpip/transport/tcp.newListenContext
func newListenContext(s *stack.Stack, protocol unsafe.Pointer, listener *tcp.Endpoint, window seqnum.Size, v6Only bool, netProto tcpip.NetworkProtocolNumber) unsafe.Pointer

//go:linkname startHandshake gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*listenContext).startHandshake
func startHandshake(listenContext, segment unsafe.Pointer, opts header.TCPSynOptions, queue *waiter.Queue, owner tcpip.PacketOwner) (unsafe.Pointer, tcpip.Error)

// inlineTCP is gVisor's TCP with segments handled where they arrive.
type inlineTCP struct {
	stack.TransportProtocol
	stack *stack.Stack
	loop  *loop // set once, before there are endpoints

	// gVisor's counters, which queuePacket would have kept.
	valid, invalid, resets *tcpip.StatCounter
}

func newInlineTCP(s *stack.Stack) stack.TransportProtocol {
	stats := s.Stats().TCP
	return &inlineTCP{
		TransportProtocol: tcp.NewProtocolCUBIC(s),
		stack:             s,
		valid:             stats.ValidSegmentsReceived,
		invalid:           stats.InvalidSegmentsReceived,
		resets:            stats.ResetsReceived,
	}
}

// QueuePacket implements the interface by which gVisor's demultiplexer hands
// segments to a protocol that queues them.
func (p *inlineTCP) QueuePacket(ep stack.TransportEndpoint, id stack.TransportEndpointID, pkt *stack.PacketBuffer) {
	if p.loop.forgedAck(id, pkt) {
		return
	}
	p.segment(ep.(*tcp.Endpoint), id, pkt)
}

// SendBufferSize implements stack.SendBufSizeProto, the only other interface
// that gVisor looks for behind a stack.TransportProtocol.
func (p *inlineTCP) SendBufferSize() tcpip.TCPSendBufferSizeRangeOption {
	return p.TransportProtocol.(stack.SendBufSizeProto).SendBufferSize()
}

// listen makes what accepts handshakes, with a receive buffer of window bytes.
func (p *inlineTCP) listen(window int) unsafe.Pointer {
	protocol := (*[2]unsafe.Pointer)(unsafe.Pointer(&p.TransportProtocol))[1] // the *protocol in the interface
	return newListenContext(p.stack, protocol, nil, seqnum.Size(window), true, 0)
}

// accept answers the SYN in pkt. The endpoint is in its handshake.
func (p *inlineTCP) accept(listenContext unsafe.Pointer, id stack.TransportEndpointID, pkt *stack.PacketBuffer, queue *waiter.Queue, owner tcpip.PacketOwner) (*tcp.Endpoint, tcpip.Error) {
	s, err := newIncomingSegment(id, p.stack.Clock(), pkt)
	if err != nil {
		return nil, &tcpip.ErrMalformedHeader{}
	}
	defer segmentDecRef(s)
	opts := header.ParseSynOptions(pkt.TransportHeader().Slice()[header.TCPMinimumSize:], false)
	h, terr := startHandshake(listenContext, s, opts, queue, owner)
	if terr != nil {
		return nil, terr
	}
	return *(**tcp.Endpoint)(h), nil
}

// forged reports whether pkt would complete ep's handshake without knowing the
// SYN-ACK, whose sequence number is iss. gVisor looks only where a listener
// might have sent a cookie; here, whoever can send in another's name could open
// connections in that name without ever seeing an answer (RFC 9293 section
// 3.10.7.4 has the check).
func (p *inlineTCP) forged(ep *tcp.Endpoint, iss uint32, pkt *stack.PacketBuffer) bool {
	if ep.EndpointState() != tcp.StateSynRecv {
		return false
	}
	th := header.TCP(pkt.TransportHeader().Slice())
	return th.Flags()&header.TCPFlagAck != 0 && th.AckNumber() != iss+1
}

// segment handles a segment of ep. It borrows pkt.
func (p *inlineTCP) segment(ep *tcp.Endpoint, id stack.TransportEndpointID, pkt *stack.PacketBuffer) {
	if ep.EndpointState() == tcp.StateSynRecv {
		th := header.TCP(pkt.TransportHeader().Slice())
		if f := th.Flags(); f&header.TCPFlagAck != 0 && f&(header.TCPFlagSyn|header.TCPFlagRst) == 0 &&
			(f&header.TCPFlagFin != 0 || pkt.Data().Size() > 0) {
			p.bareAck(ep, id, pkt)
			if ep.EndpointState() != tcp.StateEstablished {
				return // not the ACK we wait for: the client will say it again
			}
		}
	}
	p.handle(ep, id, pkt)
}

// bareAck handles pkt's headers alone, without FIN.
func (p *inlineTCP) bareAck(ep *tcp.Endpoint, id stack.TransportEndpointID, pkt *stack.PacketBuffer) {
	net, trans := pkt.NetworkHeader().Slice(), pkt.TransportHeader().Slice()
	bare := newPacket(pkt, append(append(make([]byte, 0, len(net)+len(trans)), net...), trans...), len(net), len(trans))
	th := header.TCP(bare.TransportHeader().Slice())
	th.SetFlags(uint8(th.Flags() &^ (header.TCPFlagFin | header.TCPFlagPsh)))
	p.handle(ep, id, bare)
	bare.DecRef()
}

func (p *inlineTCP) handle(ep *tcp.Endpoint, id stack.TransportEndpointID, pkt *stack.PacketBuffer) {
	// Read while pkt is its memory's only user: gVisor copies the chunk of a header
	// that is looked at when there are two, all 64 KB of it.
	rst := header.TCP(pkt.TransportHeader().Slice()).Flags().Contains(header.TCPFlagRst)
	s, err := newIncomingSegment(id, p.stack.Clock(), pkt)
	if err != nil {
		p.invalid.Increment()
		return
	}
	p.valid.Increment()
	if rst {
		p.resets.Increment()
	}
	queued := enqueueSegment(ep, s)
	segmentDecRef(s)
	if !queued {
		return
	}
	switch ep.EndpointState() {
	case tcp.StateConnecting, tcp.StateSynSent, tcp.StateSynRecv:
		handleConnecting(ep)
	case tcp.StateTimeWait:
		handleTimeWait(ep)
	default:
		handleConnected(ep)
	}
}

// receiveQueue is gVisor's recvQ: whose memory a segment is.
const receiveQueue = 2

// data handles a segment of ep that carries bytes and nothing special, without
// answering it: the caller owes the ACK. It reports whether it could; if not,
// nothing happened. Most ACKs leave with the answer's bytes, so building one for
// every segment was a fifth of what a round trip cost here.
func (p *inlineTCP) data(ep *tcp.Endpoint, id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	if f := header.TCP(pkt.TransportHeader().Slice()).Flags(); f&^header.TCPFlagPsh != header.TCPFlagAck ||
		pkt.Data().Size() == 0 || ep.EndpointState() != tcp.StateEstablished || !ep.TryLock() {
		return false
	}
	s, err := newIncomingSegment(id, p.stack.Clock(), pkt)
	if err != nil {
		ep.ResumeWork()
		return false
	}
	p.valid.Increment()
	segmentSetOwner(s, ep, receiveQueue)
	goOn, terr := handleSegmentLocked(ep, s)
	segmentDecRef(s)
	ep.ResumeWork()
	if !goOn || terr != nil {
		ep.Abort() // cannot be, see above; if it is, the connection is not sound
	}
	return true
}

// ack sends the ACK that ep owes, if it still does.
func (p *inlineTCP) ack(ep *tcp.Endpoint) {
	if ep.EndpointState() == tcp.StateTimeWait {
		return // it went with the FIN's
	}
	handleConnected(ep)
}
