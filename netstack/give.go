package netstack

// Bytes into a send buffer without gVisor's copy. Endpoint.Write reads from its
// payloader into chunks that it has just cleared; give queues a buffer that is
// there already, with the functions that Write uses: queueSegment's second half,
// then sendData. What must hold there, beside what inline.go lists:
//
//   - newOutgoingSegment takes the buffer; the segment's only reference is the
//     write list's.
//   - SndBufUsed, the list and what follows them belong to who holds the
//     endpoint's lock. (sndQueueMu is for callers on other goroutines: here is
//     only the loop.)
//   - isEndpointWritableLocked says what Write would.
//
// Where an endpoint's lists cannot be found, everything is copied: loop.copies.

import (
	"errors"
	"io"
	"reflect"
	"unsafe"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/tunmesh/tunmesh/netstack/chunk"
)

//go:linkname newOutgoingSegment gvisor.dev/gvisor/pkg/tcpip/transport/tcp.newOutgoingSegment
func newOutgoingSegment(id stack.TransportEndpointID, clock tcpip.Clock, buf buffer.Buffer, mark uint32) unsafe.Pointer

//go:linkname pushBack gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*protectedWriteList).PushBack
func pushBack(list, segment unsafe.Pointer)

//go:linkname sendData gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*Endpoint).sendData
func sendData(ep *tcp.Endpoint, next unsafe.Pointer)

//go:linkname writableLocked gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*Endpoint).isEndpointWritableLocked
func writableLocked(ep *tcp.Endpoint) (int, tcpip.Error)

// giveLeast is from how many bytes on memory is given instead of copied: such a
// packet came in a chunk of its own (see package link), and smaller ones are
// better copied together into one.
const giveLeast = 16<<10 + 1

// lists are where an endpoint has what it sent and received.
type lists struct {
	sender, toSend uintptr // *sender in Endpoint, writeList there
	received       uintptr // rcvQueue in Endpoint: its first word is the front
	packet         uintptr // pkt in segment
}

func findLists() (lists, error) {
	ep := reflect.TypeFor[tcp.Endpoint]()
	snd, ok1 := ep.FieldByName("snd")
	rcv, ok2 := ep.FieldByName("rcvQueue")
	if !ok1 || !ok2 || snd.Type.Kind() != reflect.Pointer || rcv.Type.Kind() != reflect.Struct || rcv.Type.NumField() == 0 {
		return lists{}, errLists
	}
	list, ok1 := snd.Type.Elem().FieldByName("writeList")
	head := rcv.Type.Field(0)
	if !ok1 || head.Name != "head" || head.Type.Kind() != reflect.Pointer {
		return lists{}, errLists
	}
	pkt, ok := head.Type.Elem().FieldByName("pkt")
	if !ok || pkt.Type != reflect.TypeFor[*stack.PacketBuffer]() {
		return lists{}, errLists
	}
	return lists{sender: snd.Offset, toSend: list.Offset, received: rcv.Offset, packet: pkt.Offset}, nil
}

var errLists = errors.New("find an endpoint's segments: this is not the gVisor that this package was written for")

// cheapen finds the parts of gVisor that spare bulk copies. Nothing else depends
// on them: with another gVisor bulk costs more.
func (l *loop) cheapen() {
	var err, lerr error
	l.chunks, err = chunk.Find()
	l.memory.lists, lerr = findLists()
	l.copies = lerr != nil
	for _, ln := range l.links {
		ln.Chunks = l.chunks
	}
	if err = errors.Join(err, lerr); err != nil {
		l.s.cfg.Logger.Warn("bulk costs more than it should: it is copied", "loop", l.id, "error", err)
	}
}

// give queues b, which it takes, whole: the send buffer may then hold up to a
// packet more than its size.
func (c *conn) give(b buffer.Buffer) tcpip.Error {
	m := &c.l.memory
	c.ep.LockUser()
	defer c.ep.UnlockUser()
	if _, err := writableLocked(c.ep); err != nil {
		b.Release()
		return err
	}
	size := int(b.Size())
	s := newOutgoingSegment(c.ep.TransportEndpointInfo.ID, c.l.core.stack.Clock(), b, 0)
	p := unsafe.Pointer(c.ep)
	*(*int)(unsafe.Add(p, m.at.sent)) += size
	snd := *(*unsafe.Pointer)(unsafe.Add(p, m.lists.sender))
	pushBack(unsafe.Add(snd, m.lists.toSend), s)
	sendData(c.ep, s)
	c.out += uint64(size)
	c.growOut()
	return nil
}

// full reports whether the send buffer has no room at all.
func (c *conn) full() bool { return c.sent >= int(c.ep.SocketOptions().GetSendBufferSize()) }

// front is the first received packet that is not read, or nil. Its data is what
// is left of it.
func (c *conn) front() *stack.PacketBuffer {
	at := &c.l.memory.lists
	s := *(*unsafe.Pointer)(unsafe.Add(unsafe.Pointer(c.ep), at.received))
	if s == nil {
		return nil
	}
	return *(**stack.PacketBuffer)(unsafe.Add(s, at.packet))
}

// pass gives c's first received packet to d, memory and all. ok is false when
// that is not worth it, or not possible, and nothing happened.
func (c *conn) pass(d *conn) (n int, err tcpip.Error, ok bool) { //nolint:revive // ok says whether the call meant anything
	if c.l.copies {
		return 0, nil, false
	}
	pkt := c.front()
	if pkt == nil {
		return 0, nil, false
	}
	if n = pkt.Data().Size(); n < giveLeast || d.full() || d.writes(n) < n {
		return 0, nil, false
	}
	if err := d.give(pkt.Data().ToBuffer()); err != nil {
		return 0, err, true
	}
	skip := &c.l.skip
	skip.left = n
	_, err = c.ep.Read(skip, tcpip.ReadOptions{})
	return n, err, true
}

// skip reads without looking.
type skip struct{ left int }

func (s *skip) Write(b []byte) (int, error) {
	n := min(len(b), s.left)
	s.left -= n
	if n < len(b) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// made is a buffer of n bytes, at most 64 KB, that f makes.
func (l *loop) made(n int, f func(b []byte) error) (buffer.Buffer, error) {
	var v *buffer.View
	if n < giveLeast {
		v = buffer.NewViewSize(n)
	} else {
		v = l.chunks.New()
		v.CapLength(n)
	}
	if err := f(v.AsSlice()); err != nil {
		v.Release()
		return buffer.Buffer{}, err
	}
	return buffer.MakeWithView(v), nil
}
