package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/tunmesh/tunmesh/internal/handover"
	"github.com/tunmesh/tunmesh/internal/seqpacket"
	"github.com/tunmesh/tunmesh/internal/spiffe"
)

const (
	// judgeWithin bounds a peer from accept to answer. The app can connect too:
	// it may waste maxPeers slots of its own pod for so long, and nothing else.
	judgeWithin = 2 * time.Second
	maxPeers    = 16
)

// pod serves one sandbox.
type pod struct {
	req AttachRequest
	l   *net.UnixListener
	b   *Broker

	ctx    context.Context
	cancel context.CancelFunc
	slots  chan struct{}
	wg     sync.WaitGroup

	mu     sync.Mutex
	holder *seqpacket.Conn
	// An app may ask as often as it likes; the log has one line a second of it.
	refusedAt time.Time
	unsaid    int
}

func newPod(r AttachRequest, l *net.UnixListener, b *Broker) *pod {
	p := &pod{req: r, l: l, b: b, slots: make(chan struct{}, maxPeers)}
	// The pod's life is from Attach to Release or Close, not the caller's.
	p.ctx, p.cancel = context.WithCancel(context.Background()) //nolint:forbidigo // see above
	return p
}

// stop ends acceptLoop and every connection.
func (p *pod) stop() {
	p.cancel()
	_ = p.l.Close()
}

func (p *pod) held() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.holder != nil
}

func (p *pod) acceptLoop() {
	defer p.wg.Wait()
	for {
		uc, err := p.l.AcceptUnix()
		if err != nil {
			if p.ctx.Err() != nil {
				return
			}
			p.b.cfg.Log.Warn("accept a sidecar", "sandbox", p.req.Sandbox, "error", err)
			select { // out of descriptors, most likely: not a reason to give up
			case <-p.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		select {
		case p.slots <- struct{}{}:
			p.wg.Go(func() {
				defer func() { <-p.slots }()
				p.peer(seqpacket.New(uc))
			})
		default:
			_ = uc.Close()
		}
	}
}

// logRefusal says why, once a second at most, and how many it left out.
func (p *pod) logRefusal(why error) {
	p.mu.Lock()
	now := time.Now()
	if now.Sub(p.refusedAt) < time.Second {
		p.unsaid++
		p.mu.Unlock()
		return
	}
	unsaid := p.unsaid
	p.refusedAt, p.unsaid = now, 0
	p.mu.Unlock()
	p.b.cfg.Log.Info("refuse the queues", "sandbox", p.req.Sandbox, "pod", p.req.Pod.Namespace+"/"+p.req.Pod.Name, "reason", why, "more_unsaid", unsaid)
}

// peer judges one connection, answers it and, when it claimed the queues, keeps
// it until the sidecar goes.
func (p *pod) peer(c *seqpacket.Conn) {
	defer c.Close()
	stop := context.AfterFunc(p.ctx, func() { _ = c.Close() })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(judgeWithin))
	ask, err := p.judge(c)
	if err != nil {
		var busy busyError
		p.logRefusal(err)
		_ = c.Send(handover.Answer{Refused: err.Error(), Busy: errors.As(err, &busy)})
		return
	}
	defer p.leave(c)
	if err := p.answer(c, ask); err != nil {
		p.b.cfg.Log.Warn("hand over the queues", "sandbox", p.req.Sandbox, "error", err)
		_ = c.Send(handover.Answer{Refused: err.Error(), Busy: true})
		return
	}
	_ = c.SetDeadline(time.Time{})
	for {
		var again handover.Ask
		fds, err := c.Recv(&again)
		seqpacket.CloseAll(fds)
		if err != nil {
			return
		}
	}
}

// busyError is a refusal that may pass.
type busyError string

func (e busyError) Error() string { return string(e) }

// judge returns the ask of a peer that may have the queues, which it then holds.
func (p *pod) judge(c *seqpacket.Conn) (ask handover.Ask, err error) {
	pr, err := peerOf(c)
	if err != nil {
		return ask, err
	}
	defer pr.close()
	fds, err := c.Recv(&ask)
	if err != nil {
		return ask, err
	}
	defer func() { seqpacket.CloseAll(fds) }()
	if ask.Version != handover.Version {
		return ask, fmt.Errorf("the sidecar speaks version %d of the handover, this agent %d", ask.Version, handover.Version)
	}
	proc, err := pr.process()
	if err != nil {
		return ask, err
	}
	ctx, cancel := context.WithTimeout(p.ctx, judgeWithin)
	defer cancel()
	if err := p.b.cfg.Containers.Verify(ctx, p.req.Sandbox, proc); err != nil {
		return ask, err
	}
	if !pr.alive() {
		return ask, errors.New("the peer has ended")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holder != nil {
		return ask, busyError("another process holds the queues")
	}
	p.holder = c
	if ask.Resume {
		p.takeBack(fds)
	}
	return ask, nil
}

// takeBack gives the Holder queues that it lacks, from the sidecar that has them.
func (p *pod) takeBack(fds []int) {
	if len(fds) != 2*p.req.Queues {
		return
	}
	have, err := p.b.cfg.Holder.Get(p.req.Sandbox + queuesSuffix)
	seqpacket.CloseAll(have)
	if err != nil || len(have) == len(fds) {
		return
	}
	for i, fd := range fds {
		device := p.req.AppDevice
		if i >= p.req.Queues {
			device = p.req.WireDevice
		}
		if !isQueueOf(fd, device) {
			p.b.cfg.Log.Warn("a sidecar handed back something that is no queue", "sandbox", p.req.Sandbox, "device", device)
			return
		}
	}
	if err := p.b.cfg.Holder.Put(p.req.Sandbox+queuesSuffix, fds...); err != nil {
		p.b.cfg.Log.Warn("hold the queues handed back", "sandbox", p.req.Sandbox, "error", err)
	}
}

func (p *pod) leave(c *seqpacket.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holder == c {
		p.holder = nil
	}
}

// answer sends the message and the descriptors, or just a yes to a resume.
func (p *pod) answer(c *seqpacket.Conn, ask handover.Ask) error {
	if ask.Resume {
		return c.Send(handover.Answer{})
	}
	if err := p.b.holdQueues(p.req); err != nil {
		return err
	}
	m, err := p.message()
	if err != nil {
		return err
	}
	fds, err := p.b.cfg.Holder.Get(p.req.Sandbox + queuesSuffix)
	if err != nil {
		return err
	}
	defer seqpacket.CloseAll(fds)
	return c.Send(handover.Answer{Message: m}, fds...)
}

func (p *pod) message() (*handover.Message, error) {
	mesh, err := p.b.cfg.Mesh()
	if err != nil {
		return nil, fmt.Errorf("describe the mesh: %w", err)
	}
	id, err := spiffe.Parse(mesh.ControlID)
	if err != nil {
		return nil, fmt.Errorf("describe the mesh: %w", err)
	}
	control, err := reachable(mesh.Control, p.req.Addrs)
	if err != nil {
		return nil, fmt.Errorf("describe the mesh: %w", err)
	}
	return &handover.Message{
		Version:        handover.Version,
		Pod:            p.req.Pod,
		Addrs:          p.req.Addrs,
		MTU:            p.req.MTU,
		Queues:         p.req.Queues,
		AllowProtocols: p.req.AllowProtocols,
		Node:           mesh.Node,
		TrustAnchors:   mesh.TrustAnchors,
		Control:        control,
		ControlID:      id,
		Networks:       mesh.Networks,
		Annotations:    p.req.Annotations,
	}, nil
}

// reachable is the first address of a family that the pod has.
func reachable(control []netip.AddrPort, pod []netip.Addr) (netip.AddrPort, error) {
	for _, c := range control {
		for _, a := range pod {
			if c.Addr().Is4() == a.Is4() {
				return c, nil
			}
		}
	}
	return netip.AddrPort{}, fmt.Errorf("the control plane is at %v, and the pod has %v: they share no family of addresses", control, pod)
}
