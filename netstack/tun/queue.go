package tun

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxParts is the most pieces a packet is written in; one in more is joined
// first. 64 KB in 64-byte pieces never happens; 32 pieces already do not.
const maxParts = 32

// Queue is a Device over the file descriptor of a TUN queue.
type Queue struct {
	fd     int
	hdr    [HeaderLen]byte
	iov    [maxParts + 1]unix.Iovec
	joined []byte // room for packets that must be joined or split; made when needed
	split  bool   // this kernel refuses to segment what we write
}

var _ Device = (*Queue)(nil)

// Open takes a queue's descriptor, which it owns from then on. The queue must
// be a TUN without packet information and with virtio headers of 10 bytes. Open
// asks for checksum and TCP segmentation offload of what the kernel sends us; a
// kernel without them sends packets finished. An attached queue needs no
// privilege for any of this.
func Open(fd int) (*Queue, error) {
	var ifr [40]byte
	if err := ioctl(fd, unix.TUNGETIFF, uintptr(unsafe.Pointer(&ifr[0]))); err != nil {
		return nil, fmt.Errorf("open tun queue on descriptor %d: not an attached queue: %w", fd, err)
	}
	flags := uint16(ifr[16]) | uint16(ifr[17])<<8
	if flags&unix.IFF_TUN == 0 || flags&unix.IFF_NO_PI == 0 || flags&unix.IFF_VNET_HDR == 0 {
		return nil, fmt.Errorf("open tun queue %s: flags %#x: need IFF_TUN, IFF_NO_PI and IFF_VNET_HDR", unix.ByteSliceToString(ifr[:16]), flags)
	}
	size := int32(HeaderLen)
	if err := ioctl(fd, unix.TUNSETVNETHDRSZ, uintptr(unsafe.Pointer(&size))); err != nil {
		return nil, fmt.Errorf("open tun queue %s: set the virtio header's size: %w", unix.ByteSliceToString(ifr[:16]), err)
	}
	const offload = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	if err := ioctl(fd, unix.TUNSETOFFLOAD, offload); err != nil && !errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("open tun queue %s: set offloads: %w", unix.ByteSliceToString(ifr[:16]), err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("open tun queue %s: %w", unix.ByteSliceToString(ifr[:16]), err)
	}
	return &Queue{fd: fd}, nil
}

func ioctl(fd int, req uint, arg uintptr) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), arg); e != 0 {
		return e
	}
	return nil
}

// FD implements Device.
func (q *Queue) FD() int { return q.fd }

// Close implements Device.
func (q *Queue) Close() error {
	fd := q.fd
	q.fd = -1
	if fd < 0 {
		return nil
	}
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("close tun queue: %w", err)
	}
	return nil
}

// Read implements Device. The call does not block, so the scheduler need not be
// told about it (RawSyscall: 5 % of a proxied round trip).
func (q *Queue) Read(h *Header, head, tail []byte) (int, error) {
	q.iov[0] = unix.Iovec{Base: &q.hdr[0], Len: HeaderLen}
	q.iov[1] = unix.Iovec{Base: &head[0], Len: uint64(len(head))}
	q.iov[2] = unix.Iovec{Base: &tail[0], Len: uint64(len(tail))}
	for {
		n, _, e := unix.RawSyscall(unix.SYS_READV, uintptr(q.fd), uintptr(unsafe.Pointer(&q.iov[0])), 3)
		runtime.KeepAlive(head)
		runtime.KeepAlive(tail)
		switch {
		case e == unix.EINTR:
			continue
		case e != 0:
			return 0, readError(e)
		case n < HeaderLen:
			return 0, fmt.Errorf("read tun queue: %d bytes where a header has %d", n, HeaderLen)
		}
		h.Get(&q.hdr)
		return int(n) - HeaderLen, nil
	}
}

func readError(e unix.Errno) error {
	switch e {
	case unix.EAGAIN:
		return ErrEmpty
	case unix.EBADFD, unix.EBADF, unix.ENODEV:
		return fmt.Errorf("read tun queue: %w (%w)", ErrGone, e)
	}
	return fmt.Errorf("read tun queue: %w", e)
}

// Write implements Device.
func (q *Queue) Write(h *Header, parts [][]byte) error {
	if h.GSOType != GSONone && q.split {
		return q.writeSplit(h, q.join(parts))
	}
	if len(parts) > maxParts {
		parts = [][]byte{q.join(parts)}
	}
	e := q.writev(h, parts)
	if e == unix.EINVAL && h.GSOType != GSONone {
		// Some kernels refuse a GSO packet: cut it here, this time and from now on.
		q.split = true
		return q.writeSplit(h, q.join(parts))
	}
	return writeError(e)
}

func (q *Queue) writev(h *Header, parts [][]byte) unix.Errno {
	h.Put(&q.hdr)
	q.iov[0] = unix.Iovec{Base: &q.hdr[0], Len: HeaderLen}
	n := 1
	for _, p := range parts {
		if len(p) > 0 {
			q.iov[n] = unix.Iovec{Base: &p[0], Len: uint64(len(p))}
			n++
		}
	}
	for {
		_, _, e := unix.RawSyscall(unix.SYS_WRITEV, uintptr(q.fd), uintptr(unsafe.Pointer(&q.iov[0])), uintptr(n))
		runtime.KeepAlive(parts)
		if e != unix.EINTR {
			return e
		}
	}
}

func writeError(e unix.Errno) error {
	switch e {
	case 0:
		return nil
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		return ErrFull
	case unix.EBADFD, unix.EBADF, unix.ENODEV:
		return fmt.Errorf("write tun queue: %w (%w)", ErrGone, e)
	}
	return fmt.Errorf("write tun queue: %w", e)
}

func (q *Queue) writeSplit(h *Header, packet []byte) error {
	var failed error
	err := Split(h, packet, func(segment []byte) {
		if e := q.writev(&Header{}, [][]byte{segment}); e != 0 && failed == nil {
			failed = writeError(e)
		}
	})
	return errors.Join(err, failed)
}

// join copies parts into one piece, valid until the next call.
func (q *Queue) join(parts [][]byte) []byte {
	q.joined = q.joined[:0]
	for _, p := range parts {
		q.joined = append(q.joined, p...)
	}
	return q.joined
}
