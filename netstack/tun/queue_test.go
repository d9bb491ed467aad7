package tun_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/nettest"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

func open(t *testing.T) (*tun.Queue, *nettest.Space) {
	t.Helper()
	s := nettest.New(t, "tunq")
	s.Sysctl("net/ipv6/conf/default/disable_ipv6", "1") // no packets of the kernel's own
	q, err := tun.Open(s.MakeTUN("t0", 1500, 1)[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		if err := q.Close(); err != nil {
			t.Errorf("a second Close: %v", err)
		}
	})
	s.Addr("t0", "10.9.0.1/24")
	return q, s
}

// ping is an ICMP echo request to the kernel on the other side.
func ping(n int) []byte {
	b := make([]byte, 28+n)
	b[0], b[8], b[9] = 0x45, 64, 1
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], []byte{10, 9, 0, 2, 10, 9, 0, 1})
	binary.BigEndian.PutUint16(b[10:], sum(b[:20]))
	b[20] = 8
	binary.BigEndian.PutUint16(b[22:], sum(b[20:]))
	return b
}

func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s>>16 > 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

func TestQueueReadsAndWrites(t *testing.T) {
	q, _ := open(t)
	var h tun.Header
	head, tail := make([]byte, 100), make([]byte, 2000)
	if _, err := q.Read(&h, head, tail); !errors.Is(err, tun.ErrEmpty) {
		t.Fatalf("read of an empty queue: %v", err)
	}
	for _, n := range []int{10, 1400} {
		p := ping(n)
		// In many pieces, more than one writev takes, and an empty one.
		parts := [][]byte{nil}
		for i := range p {
			parts = append(parts, p[i:i+1])
		}
		if n == 1400 {
			parts = [][]byte{p[:20], {}, p[20:]}
		}
		if err := q.Write(&tun.Header{}, parts); err != nil {
			t.Fatal(err)
		}
		got, err := q.Read(&h, head, tail) // the answer is made while we write
		if err != nil || got != len(p) {
			t.Fatalf("read: %d bytes, %v", got, err)
		}
		answer := append(bytes.Clone(head), tail...)[:got]
		if answer[20] != 0 || !bytes.Equal(answer[28:], p[28:]) {
			t.Errorf("not the answer: % x", answer[:28])
		}
	}
}

func TestQueueSaysWhyItFails(t *testing.T) {
	q, s := open(t)
	s.Down("t0")
	if err := q.Write(&tun.Header{}, [][]byte{ping(0)}); err == nil || errors.Is(err, tun.ErrGone) {
		t.Errorf("write to a device that is down: %v", err)
	}
	s.Up("t0")
	if err := q.Write(&tun.Header{}, [][]byte{ping(0)}); err != nil {
		t.Errorf("write to a device that is up again: %v", err)
	}
	s.Delete("t0")
	var h tun.Header
	b := make([]byte, 100)
	if _, err := q.Read(&h, b, b); !errors.Is(err, tun.ErrGone) {
		t.Errorf("read of a deleted device: %v", err)
	}
	if err := q.Write(&tun.Header{}, [][]byte{ping(0)}); !errors.Is(err, tun.ErrGone) {
		t.Errorf("write to a deleted device: %v", err)
	}
}

func TestOpenWantsVirtioHeaders(t *testing.T) {
	s := nettest.New(t, "tunq")
	var fd int
	if err := s.Do(func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		ifr, err := unix.NewIfreq("plain")
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := tun.Open(fd); err == nil {
		t.Error("a TUN without virtio headers was opened")
	}
}
