// Package handover is how a sidecar gets its TUN queues: the message that the
// node's agent sends with them, and the client that asks. It owns the format
// and the client's patience; who is given what is the broker's (cni/broker).
//
//  1. Receive connects to the abstract socket that the agent keeps bound in the
//     pod's network namespace and waits to be judged by its container.
//  2. The answer is a Message with the descriptors, or a refusal with a reason.
//  3. The connection stays open: it is the claim to the queues. Hold keeps it,
//     through restarts of the agent, and hands dups of the queues back to an
//     agent that lost them.
package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/internal/seqpacket"
	"github.com/tunmesh/tunmesh/internal/spiffe"
)

// Version of the message. An agent serves older sidecars of the same version
// only: both are installed together, and a sidecar that is refused says so.
const Version = 1

// Address is the broker's abstract socket in every pod's network namespace.
const Address = "@tunmesh.io/broker"

// Message describes the queues and what a sidecar needs to begin.
type Message struct {
	Version int
	Pod     Pod
	// Addrs are the pod's addresses, IPv4 and IPv6, in the order of the CNI result.
	Addrs []netip.Addr
	// MTU of both TUNs, in bytes.
	MTU uint32
	// Queues is the number of pairs: so many app descriptors, then so many wire ones.
	Queues int
	// AllowProtocols are IP protocol numbers forwarded besides TCP, UDP and ICMP.
	AllowProtocols []uint8
	Node           string
	// TrustAnchors is PEM; it may hold several certificates.
	TrustAnchors string
	// Control is the control plane's address and ControlID the only identity
	// accepted from it.
	Control   netip.AddrPort
	ControlID spiffe.ID
	// Networks are the mesh's own address ranges (pods and services).
	Networks []netip.Prefix
	// Annotations are the pod's, those of annotation.Handed only.
	Annotations map[string]string
}

// Pod names the pod.
type Pod struct{ Namespace, Name, UID string }

// Ask is what a sidecar sends first.
type Ask struct {
	Version int
	// Resume: the sidecar has its queues already and only claims them again; it
	// attaches dups of them, app first.
	Resume bool
}

// Answer is the broker's reply; Message and the descriptors come when Refused
// is empty and the ask was no Resume.
type Answer struct {
	// Refused says why not. Busy: somebody else still holds; asking again helps.
	Refused string
	Busy    bool
	Message *Message
}

// Handover is what was received. The descriptors are the caller's.
type Handover struct {
	Message   Message
	App, Wire []int

	addr string
	conn *seqpacket.Conn
}

// ErrOutside means that nobody is bound to the broker's name: the pod was set
// up without the mesh's CNI plugin.
var ErrOutside = errors.New("no broker in this network namespace: the pod was set up without the tunmesh CNI plugin")

// RefusedError is a refusal by the broker.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "the node agent refused the queues: " + e.Reason }

// Receive asks the broker at addr (normally Address) until it answers or ctx
// ends. A missing socket is ErrOutside at once, a refusal a *RefusedError;
// silence (the agent is restarting) and Busy are waited for.
func Receive(ctx context.Context, addr string) (*Handover, error) {
	wait := 5 * time.Millisecond
	for {
		h, err := once(ctx, addr, Ask{Version: Version}, nil)
		if err == nil {
			return h, nil
		}
		var refused *RefusedError
		if errors.Is(err, ErrOutside) || errors.As(err, &refused) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("receive queues from %s: %w (last: %w)", addr, ctx.Err(), err)
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Second)
	}
}

func once(ctx context.Context, addr string, ask Ask, fds []int) (*Handover, error) {
	c, err := seqpacket.Dial(ctx, addr)
	if err != nil {
		if isRefused(err) {
			return nil, ErrOutside
		}
		return nil, fmt.Errorf("connect to the broker: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	h, err := exchange(c, ask, fds)
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	h.addr, h.conn = addr, c
	return h, nil
}

func exchange(c *seqpacket.Conn, ask Ask, fds []int) (*Handover, error) {
	if err := c.Send(ask, fds...); err != nil {
		return nil, err
	}
	var a Answer
	got, err := c.Recv(&a)
	if err != nil {
		return nil, err
	}
	switch {
	case a.Refused != "" && a.Busy:
		err = fmt.Errorf("the node agent asks to wait: %s", a.Refused)
	case a.Refused != "":
		err = &RefusedError{Reason: a.Refused}
	case ask.Resume:
		seqpacket.CloseAll(got)
		return &Handover{}, nil
	case a.Message == nil:
		err = errors.New("the broker answered without a message")
	case a.Message.Version != Version:
		err = &RefusedError{Reason: fmt.Sprintf("the agent speaks version %d of the handover, this sidecar %d; restart the pod with the matching release", a.Message.Version, Version)}
	case a.Message.Queues < 1 || len(got) != 2*a.Message.Queues:
		err = fmt.Errorf("the broker sent %d descriptors for %d queue pairs", len(got), a.Message.Queues)
	}
	if err != nil {
		seqpacket.CloseAll(got)
		return nil, err
	}
	q := a.Message.Queues
	return &Handover{Message: *a.Message, App: got[:q:q], Wire: got[q:]}, nil
}

// Hold keeps the claim until ctx ends: it waits on the connection and, when
// the agent goes away, claims again with a backoff. A refusal then is logged
// and tried again: the queues in hand keep working without an agent.
func (h *Handover) Hold(ctx context.Context, log *slog.Logger) {
	for ctx.Err() == nil {
		h.waitGone(ctx)
		wait := 10 * time.Millisecond
		for ctx.Err() == nil {
			fds := append(append([]int(nil), h.App...), h.Wire...)
			n, err := once(ctx, h.addr, Ask{Version: Version, Resume: true}, fds)
			if err == nil {
				h.conn = n.conn
				break
			}
			log.Debug("claim the queues again", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
			wait = min(2*wait, 2*time.Second)
		}
	}
	_ = h.conn.Close()
}

// waitGone returns when the agent closed the connection or ctx ended.
func (h *Handover) waitGone(ctx context.Context) {
	c := h.conn
	_ = c.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		var a Answer
		fds, err := c.Recv(&a)
		seqpacket.CloseAll(fds)
		if err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil && strings.Contains(err.Error(), "decode") {
				continue
			}
			_ = c.Close()
			return
		}
	}
}
