// Package broker hands the TUN queues of a pod to that pod's sidecar, and to
// nobody else. It owns the queues' descriptors (through a Holder that outlives
// it), the abstract socket in each pod's network namespace, and the judgement
// of who connects; it refuses to know how pods' networks are made (podnet) and
// what runs containers (Containers).
//
//  1. Attach, asked by the CNI plugin: open the queues of both TUNs, listen in
//     the pod's namespace, write the state file.
//  2. A sidecar connects; the kernel's pidfd of it is judged by Containers.
//     Unknown is refused, and so is a second one while the first one's
//     connection is open: that connection is the claim.
//  3. It gets the descriptors and a handover.Message. The broker keeps dups and
//     never reads them, so that packets wait in the ring for the next sidecar.
//  4. After a restart Restore takes everything up again from the state files
//     and the Holder; nothing is ever attached beside a live queue.
//  5. Release, asked by the plugin's DEL: close and forget. Idempotent.
package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/tunmesh/tunmesh/internal/handover"
	"github.com/tunmesh/tunmesh/internal/seqpacket"
)

// Names under which a sandbox's descriptors are held.
const (
	queuesSuffix   = "/queues" // app queues, then wire queues
	listenerSuffix = "/listener"
	pidnsSuffix    = "/pidns"
)

// MaxQueues bounds the pairs of queues of a pod.
const MaxQueues = 2

// AttachRequest describes a pod whose network was set up.
type AttachRequest struct {
	Sandbox string // the runtime's container id
	Pod     handover.Pod
	// Paths of the two network namespaces.
	AppNetns, WireNetns string
	// The TUNs in them.
	AppDevice, WireDevice string
	Addrs                 []netip.Addr
	MTU                   uint32
	Queues                int
	AllowProtocols        []uint8
	// Annotations that are handed on to the sidecar (annotation.Handed).
	Annotations map[string]string
}

func (r *AttachRequest) validate() error {
	switch {
	case r.Sandbox == "" || len(r.Sandbox) > 80 || strings.ContainsAny(r.Sandbox, "/\x00") || strings.HasPrefix(r.Sandbox, "."):
		return fmt.Errorf("container id %q is not usable as a file name", r.Sandbox)
	case r.AppNetns == "" || r.WireNetns == "" || r.AppDevice == "" || r.WireDevice == "":
		return errors.New("both namespaces and both devices are needed")
	case len(r.Addrs) == 0:
		return errors.New("the pod has no address")
	case r.MTU < 576:
		return fmt.Errorf("mtu %d is below 576", r.MTU)
	case r.Queues < 1 || r.Queues > MaxQueues:
		return fmt.Errorf("%d queue pairs, want 1 to %d", r.Queues, MaxQueues)
	}
	return nil
}

// Mesh is what a sidecar is told besides its pod; read at every handover, so
// that rotated anchors reach every sidecar that starts.
type Mesh struct {
	Node         string
	TrustAnchors string // PEM
	// Control are the control plane's addresses; a sidecar is told the first one
	// of a family that its pod has.
	Control   []netip.AddrPort
	ControlID string // SPIFFE URI
	Networks  []netip.Prefix
}

// Config of a Broker; all fields are required.
type Config struct {
	// StateDir holds one JSON file a pod.
	StateDir   string
	Containers Containers
	Holder     Holder
	// Mesh is asked at every handover; its error refuses that one.
	Mesh func() (Mesh, error)
	Log  *slog.Logger
}

// Broker serves the pods of one node.
type Broker struct {
	cfg  Config
	mu   sync.Mutex
	pods map[string]*pod
	wg   sync.WaitGroup
}

// New makes a broker that serves nobody yet.
func New(cfg Config) *Broker {
	return &Broker{cfg: cfg, pods: map[string]*pod{}}
}

// Close stops serving: listeners and queues stay with the Holder.
func (b *Broker) Close() {
	b.mu.Lock()
	for _, p := range b.pods {
		p.stop()
	}
	b.mu.Unlock()
	b.wg.Wait()
}

// Attach opens the queues of a pod and begins to listen for its sidecar. The
// same request again is answered with success and changes nothing.
func (b *Broker) Attach(r AttachRequest) (err error) {
	if err := r.validate(); err != nil {
		return fmt.Errorf("attach %s: %w", r.Sandbox, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pods[r.Sandbox] != nil {
		return nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("attach %s: %w", r.Sandbox, err)
			b.forget(r.Sandbox)
		}
	}()
	if err := b.writeState(r); err != nil {
		return err
	}
	if err := b.holdQueues(r); err != nil {
		return err
	}
	l, err := b.listen(r)
	if err != nil {
		return err
	}
	b.serve(r, l)
	return nil
}

// holdQueues opens the queues unless the Holder has them.
func (b *Broker) holdQueues(r AttachRequest) error {
	have, err := b.cfg.Holder.Get(r.Sandbox + queuesSuffix)
	if err != nil {
		return err
	}
	defer func() { seqpacket.CloseAll(have) }()
	if len(have) == 2*r.Queues {
		return nil
	}
	app, err := openQueues(r.AppNetns, r.AppDevice, r.Queues)
	if err != nil {
		return err
	}
	defer seqpacket.CloseAll(app)
	wire, err := openQueues(r.WireNetns, r.WireDevice, r.Queues)
	if err != nil {
		return err
	}
	defer seqpacket.CloseAll(wire)
	return b.cfg.Holder.Put(r.Sandbox+queuesSuffix, append(app, wire...)...)
}

// listen takes the held listener up again, or makes one in the pod's namespace.
func (b *Broker) listen(r AttachRequest) (*net.UnixListener, error) {
	held, err := b.cfg.Holder.Get(r.Sandbox + listenerSuffix)
	if err != nil {
		return nil, err
	}
	if len(held) > 0 {
		f := os.NewFile(uintptr(held[0]), "listener")
		seqpacket.CloseAll(held[1:])
		l, err := net.FileListener(f)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("take the held listener: %w", err)
		}
		return l.(*net.UnixListener), nil
	}
	var l *net.UnixListener
	err = ns.WithNetNSPath(r.AppNetns, func(ns.NetNS) (err error) {
		l, err = net.ListenUnix("unixpacket", &net.UnixAddr{Name: handover.Address, Net: "unixpacket"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen at %s in %s: %w", handover.Address, r.AppNetns, err)
	}
	if err := b.holdListener(r.Sandbox, l); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

func (b *Broker) holdListener(sandbox string, l *net.UnixListener) error {
	rc, err := l.SyscallConn()
	if err != nil {
		return fmt.Errorf("reach the listener of %s: %w", sandbox, err)
	}
	cerr := rc.Control(func(fd uintptr) { err = b.cfg.Holder.Put(sandbox+listenerSuffix, int(fd)) })
	return errors.Join(err, cerr)
}

func (b *Broker) serve(r AttachRequest, l *net.UnixListener) {
	p := newPod(r, l, b)
	b.pods[r.Sandbox] = p
	b.wg.Go(p.acceptLoop)
}

// Release closes and forgets everything of the sandbox; unknown is no error.
func (b *Broker) Release(sandbox string) error {
	if sandbox == "" || strings.ContainsAny(sandbox, "/\x00") {
		return fmt.Errorf("release %q: not a container id", sandbox)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.forget(sandbox)
}

func (b *Broker) forget(sandbox string) error {
	if p := b.pods[sandbox]; p != nil {
		p.stop()
		delete(b.pods, sandbox)
	}
	var errs []error
	for _, suffix := range []string{queuesSuffix, listenerSuffix} {
		errs = append(errs, b.cfg.Holder.Delete(sandbox+suffix))
	}
	if err := os.Remove(b.stateFile(sandbox)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, fmt.Errorf("remove state of %s: %w", sandbox, err))
	}
	return errors.Join(errs...)
}

// Restore takes up the pods of the state files. One that cannot be restored is
// reported and left: its file stays, and so does what is held. Pods whose
// namespaces are gone are released. seen hears of every sandbox kept.
func (b *Broker) Restore(ctx context.Context, seen func(sandbox string) error) error {
	files, err := filepath.Glob(filepath.Join(b.cfg.StateDir, "*.json"))
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	for _, f := range files {
		if ctx.Err() != nil {
			return fmt.Errorf("restore: %w", ctx.Err())
		}
		if err := b.restore(f, seen); err != nil {
			b.cfg.Log.Error("restore a pod", "file", f, "error", err)
		}
	}
	return nil
}

func (b *Broker) restore(file string, seen func(string) error) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var r AttachRequest
	if err := json.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	if err := r.validate(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := os.Stat(r.WireNetns); errors.Is(err, fs.ErrNotExist) {
		b.cfg.Log.Info("release a pod that is gone", "sandbox", r.Sandbox, "pod", r.Pod.Namespace+"/"+r.Pod.Name)
		return b.forget(r.Sandbox)
	}
	if err := seen(r.Sandbox); err != nil {
		return err
	}
	// Without held queues a sidecar may still have its own: it hands them back
	// when it claims them. Opening is tried again for each that asks.
	if err := b.holdQueues(r); err != nil {
		b.cfg.Log.Warn("queues are not held", "sandbox", r.Sandbox, "error", err)
	}
	l, err := b.listen(r)
	if err != nil {
		return err
	}
	b.serve(r, l)
	return nil
}

// Reheld tells that the Holder lost what it held: the listeners, which are open
// here too, are put again, and every sidecar's claim is ended so that it claims
// again and hands its queues back.
func (b *Broker) Reheld() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for _, p := range b.pods {
		errs = append(errs, b.holdListener(p.req.Sandbox, p.l))
		p.mu.Lock()
		if p.holder != nil {
			_ = p.holder.Close()
		}
		p.mu.Unlock()
	}
	return errors.Join(errs...)
}

// PodInfo says how a pod stands.
type PodInfo struct {
	Sandbox string
	Pod     handover.Pod
	Held    bool // a sidecar has the queues
}

// Pods lists the pods served.
func (b *Broker) Pods() []PodInfo {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]PodInfo, 0, len(b.pods))
	for _, p := range b.pods {
		out = append(out, PodInfo{Sandbox: p.req.Sandbox, Pod: p.req.Pod, Held: p.held()})
	}
	return out
}

func (b *Broker) stateFile(sandbox string) string {
	return filepath.Join(b.cfg.StateDir, sandbox+".json")
}

func (b *Broker) writeState(r AttachRequest) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	path := b.stateFile(r.Sandbox)
	f, err := os.CreateTemp(b.cfg.StateDir, ".new-*")
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write state %s: %w", path, err)
	}
	return nil
}
