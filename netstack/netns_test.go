package netstack_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/nettest"
	"github.com/tunmesh/tunmesh/netstack"
	"github.com/tunmesh/tunmesh/netstack/packet"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

// pod is a pod as podnet makes it, with real TUNs and kernels around the stack.
//
//	app ─ eth0 (TUN) ═ stack ═ wire0 (TUN) ─ uplink ─ veth ─ far
type pod struct {
	t                *testing.T
	app, uplink, far *nettest.Space
	appFDs, wireFDs  []int
	stack            *netstack.Stack
	stop             func()
}

var (
	kPod4, kPod6 = netip.MustParseAddr("10.99.1.5"), netip.MustParseAddr("fd99:1::5")
	kFar4, kFar6 = netip.MustParseAddr("10.99.2.2"), netip.MustParseAddr("fd99:2::2")
)

func newPod(t *testing.T, mtu, queues int) *pod {
	t.Helper()
	p := &pod{t: t, app: nettest.New(t, "nsapp"), uplink: nettest.New(t, "nsup"), far: nettest.New(t, "nsfar")}
	for _, s := range []*nettest.Space{p.uplink, p.far} {
		s.Sysctl("net/ipv6/conf/default/accept_dad", "0") // addresses can be used at once
	}
	p.uplink.Veth("eth0", p.far, "eth0")
	p.uplink.MTU("eth0", mtu)
	p.far.MTU("eth0", mtu)
	p.uplink.Sysctl("net/ipv4/ip_forward", "1")
	p.uplink.Sysctl("net/ipv6/conf/all/forwarding", "1")
	p.uplink.Addr("eth0", "10.99.2.1/24")
	p.uplink.Addr("eth0", "fd99:2::1/64")
	p.far.Addr("eth0", kFar4.String()+"/24")
	p.far.Addr("eth0", kFar6.String()+"/64")
	p.far.Route("eth0", "0.0.0.0/0", "10.99.2.1")
	p.far.Route("eth0", "::/0", "fd99:2::1")
	p.appFDs = p.app.MakeTUN("eth0", mtu, queues)
	p.wireFDs = p.uplink.MakeTUN("wire0", mtu, queues)
	p.app.Addr("eth0", kPod4.String()+"/32")
	p.app.Addr("eth0", kPod6.String()+"/128")
	p.app.Route("eth0", "0.0.0.0/0", "")
	p.app.Route("eth0", "::/0", "")
	p.uplink.Route("wire0", kPod4.String()+"/32", "")
	p.uplink.Route("wire0", kPod6.String()+"/128", "")
	// Neighbours are found once, here, and not while something is timed.
	for _, far := range []netip.Addr{kFar4, kFar6} {
		waitFor(t, func() bool { _, err := p.uplink.Ping(far, time.Second); return err == nil })
	}
	t.Cleanup(func() {
		for _, fd := range append(p.appFDs, p.wireFDs...) {
			_ = unix.Close(fd)
		}
	})
	return p
}

// run starts a stack on duplicates of the queues, as a sidecar gets them.
func (p *pod) run(mtu int, onSYN func(*netstack.Pending), allow ...uint8) {
	p.t.Helper()
	open := func(fds []int) []netstack.Device {
		var dups []int
		for _, fd := range fds {
			d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				p.t.Fatal(err)
			}
			dups = append(dups, d)
		}
		devs, err := netstack.OpenQueues(dups)
		if err != nil {
			p.t.Fatal(err)
		}
		return devs
	}
	s, err := netstack.New(netstack.Config{
		App: open(p.appFDs), Wire: open(p.wireFDs), Addrs: []netip.Addr{kPod4, kPod6}, MTU: mtu, OnSYN: onSYN, AllowProtocols: allow,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.stack = s
	ctx, cancel := context.WithCancel(p.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			p.t.Errorf("run: %v", err)
		}
	})
	p.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	p.t.Cleanup(p.stop)
}

func TestKernelTCP(t *testing.T) {
	for _, mtu := range []int{1500, 1280, 9000} {
		p := newPod(t, mtu, 1)
		p.run(mtu, through)
		for _, tc := range []struct {
			name     string
			from, to *nettest.Space
			dst, src netip.Addr
		}{
			{"out v4", p.app, p.far, kFar4, kPod4},
			{"out v6", p.app, p.far, kFar6, kPod6},
			{"in v4", p.far, p.app, kPod4, kFar4},
			{"in v6", p.far, p.app, kPod6, kFar6},
		} {
			t.Run(tc.name, func(t *testing.T) {
				addr := at(tc.dst, 8000)
				tc.to.Serve(addr)
				for _, n := range []int{1, 3000, 2 << 20} {
					seen, err := tc.from.Talk("tcp", addr, make([]byte, n), 10*time.Second)
					if err != nil {
						t.Fatalf("mtu %d, %d bytes: %v", mtu, n, err)
					}
					if seen != tc.src {
						t.Errorf("the server saw %v, want %v", seen, tc.src)
					}
				}
			})
		}
		if c := p.stack.Counters(); c.App.WriteErrors+c.Wire.WriteErrors > 0 {
			t.Errorf("mtu %d: write errors: %+v", mtu, c)
		}
	}
}

func TestKernelConnectRefused(t *testing.T) {
	p := newPod(t, 1500, 1)
	p.run(1500, through)
	for _, dst := range []netip.Addr{kFar4, kFar6} {
		quickest(t, 10*time.Millisecond, func() {
			if _, err := p.app.Talk("tcp", at(dst, 81), nil, time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("connect: %v", err)
			}
		})
	}
}

func TestKernelForwards(t *testing.T) {
	p := newPod(t, 1500, 1)
	p.run(1500, (*netstack.Pending).Refuse)
	p.far.Serve(at(kFar4, 53))
	p.far.Serve(at(kFar6, 53))
	p.app.Serve(at(kPod4, 5300))
	p.app.Serve(at(kPod6, 5300))
	for _, tc := range []struct {
		from     *nettest.Space
		dst, src netip.AddrPort
	}{
		{p.app, at(kFar4, 53), at(kPod4, 0)},
		{p.app, at(kFar6, 53), at(kPod6, 0)},
		{p.far, at(kPod4, 5300), at(kFar4, 0)},
		{p.far, at(kPod6, 5300), at(kFar6, 0)},
	} {
		// A query; the largest that fits; one that takes three fragments.
		for _, n := range []int{40, 1400, 4000} {
			seen, err := tc.from.Talk("udp", tc.dst, make([]byte, n), 2*time.Second)
			if err != nil || seen != tc.src.Addr() {
				t.Errorf("udp to %v, %d bytes: seen as %v, %v", tc.dst, n, seen, err)
			}
		}
		if from, err := tc.from.Ping(tc.dst.Addr(), 2*time.Second); err != nil || from != tc.dst.Addr() {
			t.Errorf("ping %v: %v, %v", tc.dst.Addr(), from, err)
		}
	}
	waitFor(t, func() bool { // a packet arrives before it is counted
		c := p.stack.Counters()
		return c.App.ForwardedUDP >= 12 && c.Wire.ForwardedUDP >= 12 && c.App.ForwardedICMP >= 4 && c.Wire.ForwardedICMP >= 4
	})
	// UDP to a port where nobody is: the ICMP error belongs to the app.
	if _, err := p.app.Talk("udp", at(kFar4, 9), []byte("x"), 2*time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("udp to a closed port: %v", err)
	}
}

func TestKernelSpoofingAndTunnelsAreDropped(t *testing.T) {
	p := newPod(t, 1500, 1)
	p.run(1500, through, 50)
	p.app.Addr("lo", "10.99.3.3/32")
	p.app.Addr("lo", "fd99:3::3/128")
	// The far side would know the way back.
	p.uplink.Route("wire0", "10.99.3.3/32", "")
	p.uplink.Route("wire0", "fd99:3::3/128", "")
	for _, tc := range []struct {
		name, network, src string
		dst                netip.Addr
		why                packet.Reason
	}{
		{"udp v4", "udp4", "10.99.3.3:1000", kFar4, packet.SpoofedSource},
		{"udp v6", "udp6", "[fd99:3::3]:1000", kFar6, packet.SpoofedSource},
		{"tcp v4", "tcp4", "10.99.3.3:1000", kFar4, packet.SpoofedSource},
		{"tcp v6", "tcp6", "[fd99:3::3]:1000", kFar6, packet.SpoofedSource},
		{"icmp v4", "ip4:1", "10.99.3.3", kFar4, packet.SpoofedSource},
		{"gre", "ip4:47", "10.99.1.5", kFar4, packet.Protocol},
		{"ipip", "ip4:4", "10.99.1.5", kFar4, packet.Protocol},
		{"6in4", "ip4:41", "10.99.1.5", kFar4, packet.Protocol},
		{"sctp", "ip4:132", "10.99.1.5", kFar4, packet.Protocol},
		{"sctp v6", "ip6:132", "fd99:1::5", kFar6, packet.Protocol},
		{"gre v6", "ip6:47", "fd99:1::5", kFar6, packet.Protocol},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := p.stack.Counters().App.Drops[tc.why]
			_ = p.app.Do(func() error { return sendFrom(tc.network, tc.src, tc.dst) })
			waitFor(t, func() bool { return p.stack.Counters().App.Drops[tc.why] > before })
		})
	}
	if got := p.stack.Counters().Wire; got.TxPackets > 0 && got.TxPackets != p.stack.Counters().App.ForwardedICMP {
		t.Errorf("%d packets reached the wire", got.TxPackets)
	}
	t.Run("allowed by number", func(t *testing.T) {
		var l net.PacketConn
		if err := p.far.Do(func() (err error) { l, err = net.ListenPacket("ip4:50", ""); return err }); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_ = l.SetReadDeadline(time.Now().Add(5 * time.Second))
		if err := p.app.Do(func() error { return sendFrom("ip4:50", "10.99.1.5", kFar4) }); err != nil {
			t.Fatal(err)
		}
		if _, from, err := l.ReadFrom(make([]byte, 100)); err != nil || from.String() != "10.99.1.5" {
			t.Errorf("ESP arrived from %v: %v", from, err)
		}
	})
}

// sendFrom sends something from src with a protocol; a TCP connect gives up soon.
func sendFrom(network, src string, dst netip.Addr) error {
	d := net.Dialer{Timeout: 50 * time.Millisecond}
	to := netip.AddrPortFrom(dst, 53).String()
	switch network[:3] {
	case "udp":
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(src))
	case "tcp":
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(src))
	default:
		d.LocalAddr, to = &net.IPAddr{IP: net.ParseIP(src)}, dst.String()
	}
	c, err := d.Dial(network, to)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write(make([]byte, 64))
	return err
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("did not happen within 5 s")
		}
	}
}

// TestKernelRestart: connections of a stack that is gone end at once, and those
// made while nobody reads the queues are served by the next one.
func TestKernelRestart(t *testing.T) {
	p := newPod(t, 1500, 1)
	p.far.Serve(at(kFar4, 80))
	p.run(1500, through)
	var c net.Conn
	dial := func(timeout time.Duration) (err error) {
		return p.app.Do(func() (err error) { c, err = net.DialTimeout("tcp", "10.99.2.2:80", timeout); return err })
	}
	if err := dial(time.Second); err != nil {
		t.Fatal(err)
	}
	old := c
	defer old.Close()
	p.killed()
	dialled := make(chan error, 1)
	go func() { dialled <- dial(10 * time.Second) }()
	time.Sleep(50 * time.Millisecond)
	p.run(1500, through)
	if err := <-dialled; err != nil {
		t.Errorf("connect in the gap: %v", err)
	} else {
		c.Close()
	}
	_ = old.SetDeadline(time.Now().Add(5 * time.Second))
	// The kernel tells once, whoever asks first.
	_, werr := old.Write([]byte("anyone?"))
	_, rerr := io.ReadAll(old)
	if err := errors.Join(werr, rerr); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the old connection: %v", err)
	}
	if n := p.stack.Counters().App.Resets; n == 0 {
		t.Error("no reset was counted")
	}
}

// killed ends the stack so that nobody hears of it: its last words, resets of
// what is left, are kept from the devices by taking those down.
func (p *pod) killed() {
	p.app.Down("eth0")
	p.uplink.Down("wire0")
	p.stop()
	p.app.Up("eth0")
	p.uplink.Up("wire0")
	p.app.Route("eth0", "0.0.0.0/0", "")
	p.uplink.Route("wire0", kPod4.String()+"/32", "")
}

// TestKernelPathMTU: a narrower link behind the uplink is found out by the ICMP
// errors that come back, and the transfer goes through.
func TestKernelPathMTU(t *testing.T) {
	p := newPod(t, 1500, 1)
	beyond := nettest.New(t, "nsbeyond")
	beyond.Sysctl("net/ipv6/conf/default/accept_dad", "0")
	p.far.Veth("eth1", beyond, "eth0")
	p.far.MTU("eth1", 1300)
	p.far.Sysctl("net/ipv4/ip_forward", "1")
	p.far.Sysctl("net/ipv6/conf/all/forwarding", "1")
	p.far.Addr("eth1", "10.99.4.1/24")
	p.far.Addr("eth1", "fd99:4::1/64")
	b4, b6 := netip.MustParseAddr("10.99.4.2"), netip.MustParseAddr("fd99:4::2")
	beyond.Addr("eth0", b4.String()+"/24")
	beyond.Addr("eth0", b6.String()+"/64")
	beyond.Route("eth0", "0.0.0.0/0", "10.99.4.1")
	beyond.Route("eth0", "::/0", "fd99:4::1")
	p.uplink.Route("eth0", "10.99.4.0/24", kFar4.String())
	p.uplink.Route("eth0", "fd99:4::/64", kFar6.String())
	p.run(1500, through)
	for _, dst := range []netip.Addr{b4, b6} {
		beyond.Serve(at(dst, 80))
		start := time.Now()
		if _, err := p.app.Talk("tcp", at(dst, 80), make([]byte, 1<<20), 10*time.Second); err != nil {
			t.Errorf("%v: %v", dst, err)
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("%v: took %v", dst, took)
		}
	}
}

func TestKernelDeviceGone(t *testing.T) {
	p := newPod(t, 1500, 1)
	devs, err := netstack.OpenQueues([]int{p.appFDs[0], p.wireFDs[0]})
	if err != nil {
		t.Fatal(err)
	}
	p.appFDs, p.wireFDs = nil, nil // owned by the stack
	s, err := netstack.New(netstack.Config{App: devs[:1], Wire: devs[1:], Addrs: []netip.Addr{kPod4}, MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(t.Context()) }()
	time.Sleep(20 * time.Millisecond)
	p.uplink.Delete("wire0")
	select {
	case err := <-ended:
		if !errors.Is(err, tun.ErrGone) {
			t.Errorf("run: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the stack did not notice that its device is gone")
	}
}

func TestOpenQueuesRefusesOtherDescriptors(t *testing.T) {
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := netstack.OpenQueues([]int{fd}); err == nil {
		t.Fatal("a queue was made of /dev/null")
	}
	_ = unix.Close(fd)
}

// TestKernelTwoQueues: two loops; connections stay whole although the kernel
// forgets after three seconds which queue a flow belongs to.
func TestKernelTwoQueues(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the kernel to forget flows")
	}
	p := newPod(t, 1500, 2)
	p.run(1500, through)
	p.far.Serve(at(kFar4, 80))
	var conns []net.Conn
	if err := p.app.Do(func() error {
		for range 64 {
			c, err := net.DialTimeout("tcp", "10.99.2.2:80", time.Second)
			if err != nil {
				return err
			}
			conns = append(conns, c)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		for _, c := range conns {
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			if round == 0 {
				if _, err := io.ReadFull(c, make([]byte, len("10.99.1.5 "))); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if round == 0 {
			time.Sleep(4 * time.Second)
		}
	}
	for _, c := range conns {
		c.Close()
	}
}
