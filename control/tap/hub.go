// Package tap brings requests from the sidecars where they pass to the people
// who watch. It owns the attached sidecars, the watches, and what travels
// between them, bounded everywhere: a watcher that is slow loses events and is
// told how many; nobody else notices. It refuses to know what a resource is
// (its callers select pods) and what an event looks like on a screen.
//
// The flow:
//
//  1. A sidecar attaches, says which pod it is, and waits.
//  2. A watch selects pods; each selected sidecar gets a Command of the watch's
//     number. When pods or peers change, so do the commands.
//  3. An Event comes back under that number. It is counted against the watch's
//     limit, given the labels of its peers, and queued.
//  4. The watch ends; its sidecars get a Command that ends the tap there.
//
// A sidecar's connections are asked for on the same stream (Hub.Connections): one
// Command with a question, and an answer in parts under its number.
package tap

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	api "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control/access"
	"github.com/tunmesh/tunmesh/control/catalog"
)

const (
	// maxWatches bounds the people who watch at once.
	maxWatches = 256
	// maxOfPod bounds those of them that one pod's sidecar serves, and maxCapturesOfPod
	// those that are of its packets: a sidecar takes no more, and nobody would be told.
	maxOfPod         = 64
	maxCapturesOfPod = 2
	// maxQueue bounds what waits for one of them: about ten seconds at the
	// default limit, with three events to a request.
	maxQueue = 3000
	// maxHeld bounds the bytes that wait for all of them together, so that the slow
	// cost the process no more than this however many they are. Nobody may have more
	// than is free: alone a watch gets half of it, two get a third each.
	maxHeld = 48 << 20
	// maxEvent bounds one event in bytes: the largest header fields that servers
	// commonly take are 64 KB.
	maxEvent = 96 << 10
	// maxPacks bounds what waits for a capture, in messages of up to maxPack bytes.
	maxPacks = 32
	maxPack  = 256 << 10
	// DefaultRPS is the limit where none is given.
	DefaultRPS = 100
	// maxRPS bounds what may be asked for.
	maxRPS = 10000
)

// ErrBusy says that there are as many watches as there may be.
var ErrBusy = errors.New("too many taps at once: end one, or try again later")

// Hub joins sidecars and watches.
type Hub struct {
	api.UnimplementedTapServer
	catalog *catalog.Catalog
	log     *slog.Logger

	mu      sync.Mutex
	proxies map[catalog.Key]*proxy
	watches map[uint64]*Watch
	last    uint64
	asked   map[uint64]*question // by number, of which watches have some, too

	held atomic.Int64 // bytes that wait for all watches
}

// proxy is one attached sidecar.
type proxy struct {
	pod   *catalog.Pod
	nudge chan struct{}      // of one slot: the commands may have changed
	stop  context.CancelFunc // ends the stream
	asks  chan *api.Ask
}

// New returns a hub; Run makes it follow the catalog.
func New(c *catalog.Catalog, log *slog.Logger) *Hub {
	return &Hub{catalog: c, log: log, proxies: map[catalog.Key]*proxy{}, watches: map[uint64]*Watch{}, asked: map[uint64]*question{}}
}

// Run keeps the watches true to the catalog until ctx ends.
func (h *Hub) Run(ctx context.Context) error {
	seen := h.catalog.Observe()
	defer seen.Close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-seen.Changed():
		}
		h.mu.Lock()
		watches := make([]*Watch, 0, len(h.watches))
		for _, w := range h.watches {
			watches = append(watches, w)
		}
		h.mu.Unlock()
		for _, w := range watches {
			w.refresh()
		}
		if len(watches) > 0 {
			h.mu.Lock()
			h.nudgeAll()
			h.mu.Unlock()
		}
	}
}

// nudgeAll makes every sidecar's sender look at its commands. Callers hold mu.
func (h *Hub) nudgeAll() {
	for _, p := range h.proxies {
		select {
		case p.nudge <- struct{}{}:
		default:
		}
	}
}

// Attached reports whether a pod's sidecar is attached.
func (h *Hub) Attached(k catalog.Key) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.proxies[k] != nil
}

// Counts are the attached sidecars and the running watches.
func (h *Hub) Counts() (proxies, watches int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.proxies), len(h.watches)
}

// Attach implements the wire API.
func (h *Hub) Attach(stream api.Tap_AttachServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return status.Error(codes.InvalidArgument, "attach: the first message is not a hello")
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	pod, err := access.Pod(ctx, h.catalog, hello.GetPod())
	if err != nil {
		return err
	}
	p := &proxy{pod: pod, nudge: make(chan struct{}, 1), stop: cancel, asks: make(chan *api.Ask, maxAsks)}
	h.attach(p)
	defer h.detach(p)
	failed := make(chan error, 1) // of one slot: the receiver ends once
	go h.receive(stream, p, failed)
	return h.command(ctx, stream, p, failed)
}

// attach adds a sidecar; an older stream of the same pod ends, as a sidecar
// that comes again has lost the one before.
func (h *Hub) attach(p *proxy) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.proxies[p.pod.Key]; old != nil {
		old.stop()
	}
	h.proxies[p.pod.Key] = p
	p.nudge <- struct{}{}
}

func (h *Hub) detach(p *proxy) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.proxies[p.pod.Key] != p {
		return
	}
	delete(h.proxies, p.pod.Key)
	for _, w := range h.watches {
		w.forget(p.pod.Key)
	}
}

// command sends what changes in what the sidecar is to do, until ctx ends or
// the receiver fails. It runs in the stream's own goroutine: when it returns,
// gRPC ends the stream, and with it the receiver.
func (h *Hub) command(ctx context.Context, stream api.Tap_AttachServer, p *proxy, failed <-chan error) error {
	pods := h.catalog.WatchPod(p.pod.Key)
	defer pods.Close()
	sent := map[uint64]*api.Command{}
	for {
		select {
		case <-p.nudge:
		case <-pods.Changed():
			if now, _ := pods.Load(); now == nil || now.UID != p.pod.UID {
				return status.Errorf(codes.NotFound, "pod %s is gone", p.pod.Key)
			}
			continue
		case q := <-p.asks:
			if err := stream.Send(&api.Command{Ask: q}); err != nil {
				return err
			}
			continue
		case err := <-failed:
			return err
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
		want := h.commands(p.pod.Key)
		for id := range sent {
			if want[id] == nil {
				if err := stream.Send(&api.Command{Tap: id}); err != nil {
					return err
				}
				delete(sent, id)
			}
		}
		for id, c := range want {
			if old := sent[id]; old != nil && proto.Equal(old, c) {
				continue
			}
			if err := stream.Send(c); err != nil {
				return err
			}
			sent[id] = c
		}
	}
}

func (h *Hub) commands(pod catalog.Key) map[uint64]*api.Command {
	h.mu.Lock()
	defer h.mu.Unlock()
	want := map[uint64]*api.Command{}
	for id, w := range h.watches {
		if c := w.command(pod); c != nil {
			want[id] = c
		}
	}
	return want
}

// receive hands on what a sidecar sends, until its stream ends.
func (h *Hub) receive(stream api.Tap_AttachServer, p *proxy, failed chan<- error) {
	for {
		m, err := stream.Recv()
		if err != nil {
			failed <- err
			return
		}
		switch m := m.GetMessage().(type) {
		case *api.FromProxy_Event:
			h.deliver(p, m.Event)
		case *api.FromProxy_Packets:
			h.pack(p, m.Packets)
		case *api.FromProxy_Lost:
			if w := h.watch(m.Lost.GetTap()); w != nil {
				w.lost.Add(min(m.Lost.GetEvents(), maxLost))
			}
		case *api.FromProxy_Connections:
			h.answered(p, m.Connections)
		default:
			failed <- status.Error(codes.InvalidArgument, "attach: want an event or a loss")
			return
		}
	}
}

// pack gives packets to their capture.
func (h *Hub) pack(p *proxy, m *api.Packets) {
	w := h.watch(m.GetTap())
	if w == nil || w.packs == nil || !w.selects(p.pod.Key) {
		return
	}
	n := min(m.GetLost(), maxLost) + uint64(len(m.GetPackets()))
	size := proto.Size(m)
	if size > maxPack || !w.take(int64(size)) {
		w.lost.Add(n)
		return
	}
	select {
	case w.packs <- m:
	default:
		w.give(int64(size))
		w.lost.Add(n)
	}
}

// busy reports whether a pod of a watch has as many as its sidecar serves. Callers
// hold mu.
func (h *Hub) busy(w *Watch) bool {
	most := maxOfPod
	if w.packs != nil {
		most = maxCapturesOfPod
	}
	var same []*Watch
	for _, o := range h.watches {
		if (o.packs != nil) == (w.packs != nil) {
			same = append(same, o)
		}
	}
	if len(same) < most {
		return false
	}
	for pod := range w.selected {
		n := 0
		for _, o := range same {
			if o.selects(pod) {
				n++
			}
		}
		if n >= most {
			return true
		}
	}
	return false
}

// maxLost bounds a sidecar's claim of losses, so that a sum cannot wrap.
const maxLost = 1 << 32

func (h *Hub) watch(id uint64) *Watch {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.watches[id]
}

// deliver gives an event to its watch.
func (h *Hub) deliver(p *proxy, e *api.Event) {
	w := h.watch(e.GetTap())
	if w == nil || e.GetPhase() == nil {
		return
	}
	if proto.Size(e) > maxEvent {
		w.lost.Add(1)
		return
	}
	if !w.admit(p.pod.Key, e) {
		return
	}
	e.Observer = p.pod.Key.String()
	h.label(e.Source)
	h.label(e.Destination)
	size := cost(e)
	if !w.take(size) {
		w.lost.Add(1)
		return
	}
	select {
	case w.events <- e:
	default:
		w.give(size)
		w.lost.Add(1)
	}
}

// cost is about what an event takes in memory while it waits.
func cost(e *api.Event) int64 {
	labels := len(e.GetSource().GetLabels()) + len(e.GetDestination().GetLabels())
	return int64(proto.Size(e) + 512 + 64*labels)
}

// label adds what the catalog knows of a peer to what its sidecar said.
func (h *Hub) label(p *api.Peer) {
	if p == nil {
		return
	}
	ip, err := netip.ParseAddr(p.GetIp())
	if err != nil {
		return
	}
	pod, ok := h.catalog.PodByIP(ip)
	if !ok {
		return
	}
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	for k, v := range h.catalog.PodLabels(pod) {
		if _, ok := p.Labels[k]; !ok {
			p.Labels[k] = v
		}
	}
}
