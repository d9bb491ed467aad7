package measure

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/tunmesh/tunmesh/bench/load"
	"github.com/tunmesh/tunmesh/bench/peer"
	"github.com/tunmesh/tunmesh/bench/proc"
	"github.com/tunmesh/tunmesh/bench/result"
	"github.com/tunmesh/tunmesh/internal/nettest"
)

const (
	// noisy is how much CPU of others spoils a run.
	noisy = 0.35
	// settle is how long after their proofs peers are taken for idle: some give
	// memory back from time to time.
	settle = 6 * time.Second
	// perRun is what a run takes besides its duration: warm-up, accounting, waiting
	// for a quiet machine.
	perRun = 600 * time.Millisecond
	// loadPatience is how much longer than its duration a load may take.
	loadPatience = 20 * time.Second
)

// Options say how much is measured.
type Options struct {
	Rounds   int
	Duration time.Duration
	// Quiet is how long to wait at most, before a run, for the machine to be quiet.
	Quiet time.Duration
	// Profile, if not empty, is a folder for CPU profiles of the peers in Profiled.
	Profile  string
	Profiled []string
}

// Bench measures peers.
type Bench struct {
	Env       *peer.Env
	Options   Options
	Makers    []peer.Maker
	Workloads []Workload
	// Say tells a person how it goes.
	Say func(format string, args ...any)

	peers []*peer.Peer
	irq   []int
	// counts: this machine counts instructions.
	counts bool
	// stranger is a host outside, which cannot prove itself unless it is given how.
	stranger *nettest.Space
}

// Run sets the peers up, proves each, and measures.
func (b *Bench) Run(doc *result.Bench) error {
	b.irq = proc.SoftIRQ()
	doc.Machine["instructions"] = "counted by the hardware"
	if err := proc.HardwareCounters(); err != nil {
		doc.Machine["instructions"] = err.Error()
		b.Say("instructions per request are not measured: %v", err)
	} else {
		b.counts = true
	}
	b.stranger, _ = b.Env.Bridge.Host()
	for _, m := range b.Makers {
		b.Say("setting up %s", m.Name)
		p, err := m.Make(b.Env)
		var missing *peer.MissingError
		if errors.As(err, &missing) {
			b.Say("skipped %s: %v", m.Name, err)
			doc.Skipped = append(doc.Skipped, result.Skipped{Name: m.Name, Why: err.Error()})
			continue
		}
		if err != nil {
			return fmt.Errorf("set up %s: %w", m.Name, err)
		}
		proofs, err := prove(b.Env.Bridge, b.stranger, p)
		if err != nil {
			return fmt.Errorf("prove %s: %w%s", m.Name, err, says(p))
		}
		b.peers = append(b.peers, p)
		doc.Peers = append(doc.Peers, result.Peer{Name: p.Name, Version: p.Version, Setup: p.Setup, MTLS: p.MTLS, Feature: p.Feature, Beside: p.Beside, Proofs: proofs})
	}
	time.Sleep(settle)
	for i, p := range b.peers {
		doc.Peers[i].Idle = sides(p)
	}
	for _, w := range b.Workloads {
		for _, p := range b.peers {
			if why := w.without(p); why != "" {
				doc.LeftOut = append(doc.LeftOut, result.LeftOut{Workload: w.Name, Peer: p.Name, Why: why})
			}
		}
	}
	b.Say("measuring: %v", b.expected())
	for _, w := range b.Workloads {
		doc.Workloads = append(doc.Workloads, w.Workload)
		broken := map[string]bool{}
		for round := range b.Options.Rounds {
			for _, p := range b.turn(round) {
				if w.without(p) != "" || broken[p.Name] {
					continue
				}
				r, err := b.one(w, p, round)
				if errors.Is(err, errLoad) {
					b.Say("%s through %s FAILED: %v%s", w.Name, p.Name, err, says(p))
					doc.Failures = append(doc.Failures, result.Failure{Workload: w.Name, Peer: p.Name, Round: round, Why: err.Error()})
					broken[p.Name] = true
					continue
				}
				if err != nil {
					return fmt.Errorf("%s through %s: %w%s", w.Name, p.Name, err, says(p))
				}
				doc.Runs = append(doc.Runs, r)
			}
		}
	}
	return nil
}

// Most is how long it takes when every peer can do every workload, with a minute
// for building and proofs.
func Most(o Options, peers, workloads int) time.Duration {
	return time.Minute + time.Duration(o.Rounds*peers*workloads)*(o.Duration+perRun)
}

// expected says how much will be done and until when, if nothing waits.
func (b *Bench) expected() string {
	n := 0
	for _, w := range b.Workloads {
		for _, p := range b.peers {
			if w.without(p) == "" {
				n += b.Options.Rounds
			}
		}
	}
	d := time.Duration(n) * (b.Options.Duration + perRun)
	return fmt.Sprintf("%d runs, about %v, until %s", n, d.Round(time.Second), time.Now().Add(d).Format("15:04"))
}

// turn is the order of a round: none is always the one after the same other.
func (b *Bench) turn(round int) []*peer.Peer {
	n := len(b.peers)
	if n == 0 {
		return nil
	}
	i := round % n
	return slices.Concat(b.peers[i:], b.peers[:i])
}

// says is what a peer's programs wrote last.
func says(p *peer.Peer) (out string) {
	for _, s := range p.Pair {
		if words := s.Says(); words != "" {
			out += fmt.Sprintf("\n%s's side: %s", s.Side, words)
		}
	}
	return out
}

// errLoad is a peer's fault, or the load's: others can be measured still.
var errLoad = errors.New("the load broke")

// sides is the memory of a pair.
func sides(p *peer.Peer) (out []result.Side) {
	for _, s := range p.Pair {
		x := result.Side{Side: s.Side}
		for _, pid := range proc.Tree(s.PID()) {
			resident, anonymous := proc.RSS(pid)
			x.Resident += resident
			x.Anonymous += anonymous
		}
		out = append(out, x)
	}
	return out
}

// used is CPU time so far.
type used struct {
	sides         []time.Duration
	ours, machine time.Duration
	stolen        time.Duration
}

func (b *Bench) used(p *peer.Peer) (u used, err error) {
	for _, s := range p.Pair {
		var d time.Duration
		for _, pid := range proc.Tree(s.PID()) {
			d += proc.CPU(pid)
		}
		u.sides = append(u.sides, d)
		u.ours += d
	}
	u.ours += proc.CPU(p.App.PID())
	for _, a := range p.Aside {
		u.ours += proc.CPU(a.PID())
	}
	for _, pid := range b.irq {
		u.ours += proc.CPU(pid)
	}
	u.stolen = proc.Stolen()
	u.machine, err = proc.Machine()
	return u, err
}

// one loads a peer once.
func (b *Bench) one(w Workload, p *peer.Peer, round int) (result.Run, error) {
	r := result.Run{Workload: w.Name, Peer: p.Name, Round: round}
	b.awaitQuiet()
	cpus := allCPUs()
	if w.Pinned {
		cpus = cpus[len(cpus)-1:]
	}
	if err := b.pin(p, cpus); err != nil {
		return r, err
	}
	before, err := b.used(p)
	if err != nil {
		return r, err
	}
	counted, looked := b.counters(p), looking(p)
	start := time.Now()
	args := append(slices.Clone(w.Args), "-duration="+b.Options.Duration.String())
	from, at := p.From, p.At(w.Kind)
	if w.Itself {
		kind := w.Kind
		if p.ALPN != "" {
			kind = load.ServeH1
			args = append(args, "-http1", "-alpn="+p.ALPN)
		}
		from, at = b.stranger, netip.AddrPortFrom(p.ServerAddr, peer.Kinds()[kind])
		args = append(args, "-cert="+p.Cert, "-key="+p.Key)
	}
	args = append(args, at.String())
	client, err := proc.Run(proc.Spec{Path: filepath.Join(b.Env.Bin, "load"), Args: args, Space: from})
	if err != nil {
		return r, err
	}
	b.Env.Scope.Cleanup(client.Stop)
	if err := proc.Pin(client.PID(), cpus...); err != nil && client.Running() {
		return r, err
	}
	overdue := time.AfterFunc(b.Options.Duration+loadPatience, func() { _ = client.Signal(os.Kill) })
	defer overdue.Stop()
	profile := b.profile(w, p, round)
	memory := watch(p)
	decoded := json.NewDecoder(client.Output()).Decode(&r.Load)
	r.Sides = memory()
	profileErr := profile()
	clientCPU, err := client.Wait()
	if err == nil && decoded != nil {
		err = decoded
	}
	if err != nil {
		return r, fmt.Errorf("%w: %w", errLoad, err)
	}
	took := time.Since(start)
	counted(r.Sides)
	r.Seen = looked()
	after, err := b.used(p)
	if err != nil {
		return r, err
	}
	r.CPU = result.CPU{Elapsed: took.Seconds(), Ours: (after.ours - before.ours + clientCPU).Seconds(), Machine: (after.machine - before.machine).Seconds(), Stolen: (after.stolen - before.stolen).Seconds()}
	for i := range after.sides {
		d := (after.sides[i] - before.sides[i]).Seconds()
		r.Sides[i].CPU = d
		r.CPU.Peer += d
	}
	others := r.CPU.Others()
	r.Noisy = others >= noisy
	b.say(w, r, others)
	return r, profileErr
}

func (b *Bench) say(w Workload, r result.Run, others float64) {
	what := fmt.Sprintf("%9.0f/s  p50 %6.0f  p99 %6.0f µs", r.Load.Rate, r.Load.P50, r.Load.P99)
	switch {
	case r.Load.Rate == 0 && r.Load.Gbit == 0:
		what = "idle"
		for _, s := range r.Sides {
			what += fmt.Sprintf("  %6.1f MB %s", float64(s.Resident)/(1<<20), s.Side)
		}
	case r.Load.Gbit > 0:
		what = fmt.Sprintf("%9.2f Gbit/s", r.Load.Gbit)
	}
	if r.CPU.Peer > 0 && r.Load.All > 0 {
		what += fmt.Sprintf("  %8.0f per CPU-s of the pair", float64(r.Load.All)/r.CPU.Peer)
	}
	noise := ""
	if r.Noisy {
		noise = fmt.Sprintf("  NOISY: others used %.2f CPU", others)
	}
	if r.Load.Failed > 0 {
		noise += fmt.Sprintf("  %d FAILED", r.Load.Failed)
	}
	b.Say("%-12s %-12s %s%s", w.Name, r.Peer, what, noise)
}

// looking is how much those saw who look on, from now on.
func looking(p *peer.Peer) func() map[string]uint64 {
	if p.Seen == nil {
		return func() map[string]uint64 { return nil }
	}
	before := p.Seen()
	return func() map[string]uint64 {
		after := p.Seen()
		for name, n := range before {
			after[name] -= n
		}
		return after
	}
}

// watch follows the memory of a pair; the returned function says the most.
func watch(p *peer.Peer) func() []result.Side {
	stop, most := make(chan struct{}), make(chan []result.Side, 1)
	go func() {
		seen := sides(p)
		t := time.NewTicker(250 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				seen = larger(seen, sides(p))
			case <-stop:
				most <- seen
				return
			}
		}
	}()
	return func() []result.Side {
		close(stop)
		return <-most
	}
}

func larger(a, b []result.Side) []result.Side {
	for i := range a {
		a[i].Resident = max(a[i].Resident, b[i].Resident)
		a[i].Anonymous = max(a[i].Anonymous, b[i].Anonymous)
	}
	return a
}

func allCPUs() []int {
	cpus := make([]int, runtime.NumCPU())
	for i := range cpus {
		cpus[i] = i
	}
	return cpus
}

func (b *Bench) pin(p *peer.Peer, cpus []int) error {
	pids := []int{p.App.PID()}
	for _, s := range p.Pair {
		pids = append(pids, proc.Tree(s.PID())...)
	}
	for _, pid := range pids {
		if err := proc.Pin(pid, cpus...); err != nil {
			return err
		}
	}
	return nil
}

// awaitQuiet waits until the machine has little else to do.
func (b *Bench) awaitQuiet() {
	const look = 150 * time.Millisecond
	for end := time.Now().Add(b.Options.Quiet); time.Now().Before(end); {
		before, err := proc.Machine()
		if err != nil {
			return
		}
		time.Sleep(look)
		after, err := proc.Machine()
		if err != nil || float64(after-before) < noisy/2*float64(look) {
			return
		}
	}
}
