package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tunmesh/tunmesh/bench/proc"
	"github.com/tunmesh/tunmesh/bench/result"
	"github.com/tunmesh/tunmesh/bench/scope"
	"github.com/tunmesh/tunmesh/bench/topology"
	"github.com/tunmesh/tunmesh/internal/nettest"
	"github.com/tunmesh/tunmesh/netstack"
)

// noisy is how much CPU of others spoils a run.
const noisy = 0.35

// workload is one way to load a peer.
type workload struct {
	name   string
	args   []string
	sink   bool // towards the port that swallows
	pinned bool // everything on one CPU
	rps    bool // the TUNs spread their receive processing
	more   int  // times as many rounds: short runs whose figure has two modes
	only   string
}

// workloads: a single connection that is not pinned mostly measures wake-ups.
// Bulk runs with one queue and RPS on both TUNs.
var workloads = []workload{ //nolint:gochecknoglobals // a table
	{name: "ping-1-pinned", args: []string{"ping", "-conns=1"}, pinned: true, more: 3},
	{name: "ping-64", args: []string{"ping", "-conns=64"}},
	{name: "bulk-1-rps", args: []string{"bulk", "-conns=1"}, sink: true, rps: true},
	{name: "bulk-8-rps", args: []string{"bulk", "-conns=8"}, sink: true, rps: true},
	{name: "connect", args: []string{"connect"}},
	{name: "ping-256", args: []string{"ping", "-conns=256"}, only: netstackPeer},
	{name: "ping-1024", args: []string{"ping", "-conns=1024"}, only: netstackPeer},
}

const (
	directPeer   = "direct"
	splicePeer   = "relay-iocopy"
	bufferPeer   = "relay-64k"
	dialledPeer  = "relay-64k-dialled" // not redirected: for comparison only
	netstackPeer = "netstack"
)

// limits are what a hop must reach against the buffered relay.
var limits = []result.Limit{ //nolint:gochecknoglobals // a table
	{Name: "p50, 1 connection, one CPU", Workload: "ping-1-pinned", Peer: netstackPeer, Against: bufferPeer, Figure: "p50", AtMost: true, Bound: 1.15},
	{Name: "round trips/s at 64", Workload: "ping-64", Peer: netstackPeer, Against: bufferPeer, Figure: "rate", Bound: 0.75},
	{Name: "machine CPU per round trip at 64", Workload: "ping-64", Peer: netstackPeer, Against: bufferPeer, Figure: "machineCPU", AtMost: true, Bound: 1.25},
	{Name: "bulk, 1 connection", Workload: "bulk-1-rps", Peer: netstackPeer, Against: bufferPeer, Figure: "gbit", Bound: 0.6},
	{Name: "bulk, 8 connections", Workload: "bulk-8-rps", Peer: netstackPeer, Against: bufferPeer, Figure: "gbit", Bound: 0.45},
	{Name: "drops at 64", Workload: "ping-64", Peer: netstackPeer, Figure: "drops", AtMost: true},
	{Name: "drops at 256", Workload: "ping-256", Peer: netstackPeer, Figure: "drops", AtMost: true},
	{Name: "drops at 1024", Workload: "ping-1024", Peer: netstackPeer, Figure: "drops", AtMost: true},
}

// peer is what stands between the load's two ends.
type peer struct {
	name       string
	from       *nettest.Space // where the client runs
	echo, sink netip.AddrPort // where it connects to
	process    *proc.Process  // nil for direct
	stats      *bufio.Scanner // of the hop
}

type bench struct {
	s      *scope.Scope
	f      flags
	net    *topology.Net
	server *proc.Process
	irq    []int
	peers  []peer
}

func measure(s *scope.Scope, f flags) result.Document {
	b := &bench{s: s, f: f, net: topology.New(s), irq: proc.SoftIRQ()}
	b.start()
	doc := result.Document{Workload: "net", Machine: proc.Describe(), Settings: map[string]string{
		"rounds": fmt.Sprint(f.rounds), "duration": f.duration.String(), "mtu": fmt.Sprint(topology.MTU), "txqueuelen": "8000",
		"queues": "1", "rps": "off, but for bulk: both TUNs, all CPUs", "congestion": "cubic", "hop": f.hopFlags,
	}}
	for _, w := range workloads {
		if f.only != "" && !slices.Contains(strings.Split(f.only, ","), w.name) {
			continue
		}
		cpus := 0
		if w.rps {
			cpus = runtime.NumCPU()
		}
		b.net.Pod.RPS(cpus)
		for round := range f.rounds * max(w.more, 1) {
			for i := range b.peers {
				if p := &b.peers[i]; w.only == "" || w.only == p.name {
					r := b.run(w, p)
					r.Round = round
					doc.Runs = append(doc.Runs, r)
					fmt.Fprintf(os.Stderr, "%s %s: %.1f µs p50, %.0f/s, %.2f Gbit/s, others used %.2f CPU\n", w.name, p.name, r.Load.P50, r.Load.Rate, r.Load.Gbit, (r.CPU.Machine-r.CPU.Ours)/r.CPU.Elapsed)
				}
			}
		}
	}
	doc.Figures = result.Summarise(doc.Runs)
	doc.Limits = result.Judge(slices.DeleteFunc(slices.Clone(limits), func(l result.Limit) bool {
		return f.only != "" && !slices.Contains(strings.Split(f.only, ","), l.Workload)
	}), doc.Figures)
	return doc
}

func (b *bench) process(where *nettest.Space, fds []int, name string, args ...string) *proc.Process {
	p, err := proc.Start(where, fds, filepath.Join(b.s.Dir, name), args...)
	if err != nil {
		b.s.Fail(err)
	}
	b.s.Cleanup(p.Stop)
	return p
}

// start starts both ends and everything between, and waits until each answers.
func (b *bench) start() {
	at := func(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
	n := b.net
	echo, sink := at(n.ServerAddr, 7001), at(n.ServerAddr, 7002)
	b.server = b.process(n.Server, nil, "load", "serve", "echo="+echo.String(), "sink="+sink.String())
	client, _ := n.Bridge.Host()
	relay := func(name string, args ...string) peer {
		p := peer{name: name, echo: echo, sink: sink}
		p.from, _ = n.Bridge.Host()
		const port = 15001
		if err := topology.Redirect(p.from, n.ServerAddr, port); err != nil {
			b.s.Fail(err)
		}
		p.process = b.process(p.from, nil, "relay", append(args, fmt.Sprintf("-listen=:%d", port), fmt.Sprintf("-mark=%d", topology.PeerMark))...)
		return p
	}
	dialled := peer{name: dialledPeer}
	var addr netip.Addr
	dialled.from, addr = n.Bridge.Host()
	dialled.echo, dialled.sink = at(addr, 15001), at(addr, 15002)
	dialled.process = b.process(dialled.from, nil, "relay", "-buffer=65536",
		dialled.echo.String()+"="+echo.String(), dialled.sink.String()+"="+sink.String())
	hop := peer{name: netstackPeer, from: n.Pod.Space, echo: echo, sink: sink}
	hop.process = b.process(nil, []int{n.Pod.AppFD, n.Pod.WireFD}, "hop", append([]string{"-addr=" + n.Pod.Addr.String(), fmt.Sprintf("-mtu=%d", topology.MTU)}, strings.Fields(b.f.hopFlags)...)...)
	hop.stats = bufio.NewScanner(hop.process.Output())
	b.peers = []peer{
		{name: directPeer, from: client, echo: echo, sink: sink},
		relay(splicePeer),
		relay(bufferPeer, "-buffer=65536"),
		dialled,
		hop,
	}
	for _, p := range b.peers {
		b.prove(p)
	}
}

// prove sends bytes through a peer and wants them back: nothing is measured
// that does not work.
func (b *bench) prove(p peer) {
	const msg = "is anybody there?"
	var err error
	for range 100 {
		var c net.Conn
		if err = p.from.Do(func() (err error) { c, err = net.DialTimeout("tcp", p.echo.String(), time.Second); return err }); err == nil {
			_ = c.SetDeadline(time.Now().Add(time.Second))
			got := make([]byte, len(msg))
			if _, err = io.WriteString(c, msg); err == nil {
				_, err = io.ReadFull(c, got)
			}
			_ = c.Close()
			if err == nil && string(got) == msg {
				return
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.s.Fatalf("%s does not echo: %v", p.name, err)
}

// run loads a peer once.
func (b *bench) run(w workload, p *peer) result.Run {
	r := result.Run{Workload: w.name, Peer: p.name}
	pids := []int{b.server.PID()}
	if p.process != nil {
		pids = append(pids, p.process.PID())
	}
	cpus := make([]int, runtime.NumCPU())
	for i := range cpus {
		cpus[i] = i
	}
	if w.pinned {
		cpus = cpus[len(cpus)-1:]
	}
	for _, pid := range pids {
		b.pin(pid, cpus)
	}
	hopBefore := b.ask(p)
	before := b.cpu(pids)
	start := time.Now()

	target := p.echo
	if w.sink {
		target = p.sink
	}
	args := append(append([]string{w.args[0]}, w.args[1:]...), "-duration="+b.f.duration.String(), target.String())
	client, err := proc.Start(p.from, nil, filepath.Join(b.s.Dir, "load"), args...)
	if err != nil {
		b.s.Fail(err)
	}
	b.pin(client.PID(), cpus)
	if err := json.NewDecoder(client.Output()).Decode(&r.Load); err != nil && err != io.EOF {
		b.s.Fail(err)
	}
	used, err := client.Wait()
	if err != nil {
		b.s.Fatalf("%s through %s: %v", w.name, p.name, err)
	}
	took := time.Since(start)
	after := b.cpu(pids)
	r.CPU = result.CPU{Elapsed: took.Seconds(), Ours: (after.ours - before.ours + used).Seconds(), Machine: (after.machine - before.machine).Seconds()}
	if p.process != nil {
		r.CPU.Peer = (after.peer - before.peer).Seconds()
	}
	r.Noisy = (r.CPU.Machine-r.CPU.Ours)/r.CPU.Elapsed >= noisy
	if hopAfter := b.ask(p); hopAfter != nil {
		h := hopAfter.Since(*hopBefore)
		r.Hop = &h
	}
	return r
}

// pin is best effort for a client that may be over already.
func (b *bench) pin(pid int, cpus []int) {
	if err := proc.Pin(pid, cpus...); err != nil {
		if _, gone := os.Stat(fmt.Sprintf("/proc/%d/task", pid)); gone == nil {
			b.s.Fail(err)
		}
	}
}

type used struct{ ours, peer, machine time.Duration }

func (b *bench) cpu(pids []int) (u used) {
	for i, pid := range pids {
		c := proc.CPU(pid)
		u.ours += c
		if i == 1 {
			u.peer = c
		}
	}
	for _, pid := range b.irq {
		u.ours += proc.CPU(pid)
	}
	m, err := proc.Machine()
	if err != nil {
		b.s.Fail(err)
	}
	u.machine = m
	return u
}

// ask gets a hop's totals; nil for other peers.
func (b *bench) ask(p *peer) *result.Hop {
	if p.stats == nil {
		return nil
	}
	if err := p.process.Signal(syscall.SIGUSR1); err != nil {
		b.s.Fail(err)
	}
	if !p.stats.Scan() {
		b.s.Fatalf("the hop does not report: %v", p.stats.Err())
	}
	var c netstack.Counters
	if err := json.Unmarshal(p.stats.Bytes(), &c); err != nil {
		b.s.Fatalf("the hop's report: %v", err)
	}
	h := &result.Hop{
		Retransmits: c.TCP.Retransmits, Timeouts: c.TCP.Timeouts, RingDrops: b.net.Pod.Dropped(),
		WriteErrors: c.App.WriteErrors + c.Wire.WriteErrors,
		AppRead:     c.App.RxPackets, AppWritten: c.App.TxPackets, WireRead: c.Wire.RxPackets, WireWritten: c.Wire.TxPackets,
		AcksMerged: c.App.AcksMerged + c.Wire.AcksMerged,
	}
	for _, side := range []netstack.SideCounters{c.App, c.Wire} {
		for _, n := range side.Drops {
			h.Drops += n
		}
	}
	h.Resident, h.Anonymous = proc.RSS(p.process.PID())
	return h
}
