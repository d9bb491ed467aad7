// Package kubelet runs the pods of a set of manifests on this one machine, as
// controllers and a kubelet would: replicas, rolling changes, init containers
// and native sidecars, probes, restarts with backoff, volumes, tokens, logs and
// status. It owns when things run; how they are isolated is package sandbox's,
// what their network is Network's, and manifests are read by control/files.
//
//  1. Apply says what is wanted. Run compares it with the pods there are and
//     starts and ends pods; plan (pure) decides which.
//  2. Each pod has a worker: sandbox, network, volumes, init containers in
//     order, then the containers. A sandbox that dies is made again.
//  3. Each container has a runner: start, probe, wait, back off, start again.
//  4. Every change of a pod goes to Status as a whole v1.Pod.
package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/sandbox"
	"github.com/tunmesh/tunmesh/control/files"
	"github.com/tunmesh/tunmesh/control/inject"
)

// MaxPods bounds the pods of a node; each has a range of user ids of its own.
const MaxPods = 250

// Network gives pods their addresses.
type Network interface {
	Add(ctx context.Context, a Attachment) ([]netip.Addr, error)
	// Del is called for every sandbox, also when Add failed; it may be repeated.
	Del(ctx context.Context, a Attachment) error
}

// Attachment names a pod to a Network.
type Attachment struct {
	Sandbox, NetNS       string
	Namespace, Name, UID string
	Annotations          map[string]string
}

// Registrar is told which container is a pod's sidecar, before it runs.
type Registrar interface {
	Register(ctx context.Context, sandbox string, pidns int) error
}

// Status hears of every change of a pod.
type Status interface {
	Put(pod *corev1.Pod) error
	Remove(namespace, name string) error
}

// Tokens mints a ServiceAccount token for a pod.
type Tokens interface {
	Mint(pod *corev1.Pod, audience string, ttl time.Duration) (string, error)
}

// Config of a Kubelet; all fields but MaxBackoff are required.
type Config struct {
	Base      *sandbox.Base
	Network   Network
	Registrar Registrar
	Status    Status
	Tokens    Tokens
	Inject    inject.Config
	// LogDir holds a folder a pod with the containers' output.
	LogDir string
	// NodeName and HostIP are what pods are told of the machine.
	NodeName string
	HostIP   netip.Addr
	// DNS are the nameservers in resolv.conf.
	DNS []netip.Addr
	// IDBase is the first user id of the first pod's range.
	IDBase uint32
	// MaxBackoff bounds the wait before a container starts again; default 30 s.
	MaxBackoff time.Duration
	Log        *slog.Logger
}

// Kubelet runs pods.
type Kubelet struct {
	cfg   Config
	nudge chan struct{} // one slot: something changed

	mu      sync.Mutex
	desired *files.Set
	pods    map[string]*pod // namespace/name
	ids     [MaxPods]bool   // ranges in use
	grace   *time.Duration  // while everything ends: no pod takes longer
	wg      sync.WaitGroup
}

// New makes a kubelet that wants nothing.
func New(cfg Config) *Kubelet {
	if cfg.MaxBackoff == 0 {
		cfg.MaxBackoff = 30 * time.Second
	}
	return &Kubelet{cfg: cfg, nudge: make(chan struct{}, 1), desired: &files.Set{}, pods: map[string]*pod{}}
}

// Apply makes set what is wanted. The set must not be changed afterwards.
func (k *Kubelet) Apply(set *files.Set) {
	k.mu.Lock()
	k.desired = set
	for _, p := range k.pods {
		select {
		case p.sync <- struct{}{}:
		default: // told already
		}
	}
	k.mu.Unlock()
	k.wake()
}

func (k *Kubelet) wake() {
	select {
	case k.nudge <- struct{}{}:
	default:
	}
}

// Run works until ctx ends; pods are ended then without ceremony (see Drain).
func (k *Kubelet) Run(ctx context.Context) error {
	defer k.wg.Wait()
	for {
		k.reconcile(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-k.nudge:
		}
	}
}

// Drain ends all pods as a deletion would, none with more than grace, and
// returns when they are gone or ctx ends. Run must be running.
func (k *Kubelet) Drain(ctx context.Context, grace time.Duration) error {
	k.mu.Lock()
	k.grace = &grace
	k.desired = &files.Set{}
	for _, p := range k.pods {
		p.delete(grace)
	}
	k.mu.Unlock()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		k.mu.Lock()
		n := len(k.pods)
		k.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("end all pods: %d left: %w", n, ctx.Err())
		case <-tick.C:
		}
	}
}

// reconcile starts and ends pods until what there is is on its way to what is
// wanted.
func (k *Kubelet) reconcile(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.grace != nil {
		return
	}
	owned := map[string][]view{}
	for _, p := range k.pods {
		owned[p.owner] = append(owned[p.owner], p.view())
	}
	wanted := map[string]bool{}
	for _, t := range k.desired.Templates() {
		w := workloadOf(t)
		wanted[w.owner] = true
		d := plan(w, owned[w.owner])
		for _, name := range d.remove {
			k.pods[key(w.namespace, name)].delete(0)
		}
		for _, name := range d.create {
			if err := k.create(ctx, w, name); err != nil {
				k.cfg.Log.Error("create a pod", "workload", w.owner, "error", err)
			}
		}
	}
	for _, p := range k.pods {
		if !wanted[p.owner] {
			p.delete(0)
		}
	}
}

func key(namespace, name string) string { return namespace + "/" + name }

// create makes a pod of a workload and starts its worker.
func (k *Kubelet) create(ctx context.Context, w workload, name string) error {
	id := slices.Index(k.ids[:], false)
	if id < 0 {
		return fmt.Errorf("there are %d pods already, the most a local mesh runs", MaxPods)
	}
	object, err := w.pod(name, k.namespaceAnnotations(w.namespace), k.cfg.Inject)
	if err != nil {
		return err
	}
	k.ids[id] = true
	p := newPod(k, w, object, k.cfg.IDBase+uint32(id)*sandbox.IDs)
	k.pods[key(w.namespace, object.Name)] = p
	p.publish()
	k.wg.Go(func() {
		p.run(ctx)
		k.mu.Lock()
		delete(k.pods, key(w.namespace, object.Name))
		k.ids[id] = false
		k.mu.Unlock()
		if err := k.cfg.Status.Remove(w.namespace, object.Name); err != nil {
			k.cfg.Log.Error("remove a pod's status", "pod", object.Name, "error", err)
		}
		if err := os.RemoveAll(p.logDir()); err != nil {
			k.cfg.Log.Error("remove a pod's logs", "pod", object.Name, "error", err)
		}
		k.wake()
	})
	return nil
}

func (k *Kubelet) namespaceAnnotations(name string) map[string]string {
	for _, n := range k.desired.Namespaces {
		if n.Name == name {
			return n.Annotations
		}
	}
	return nil
}

// Pods lists the pods there are, sorted by namespace and name.
func (k *Kubelet) Pods() []*corev1.Pod {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]*corev1.Pod, 0, len(k.pods))
	for _, p := range k.pods {
		out = append(out, p.snapshot())
	}
	slices.SortFunc(out, func(a, b *corev1.Pod) int {
		return strings.Compare(key(a.Namespace, a.Name), key(b.Namespace, b.Name))
	})
	return out
}

// Delete ends a pod; its workload, if it has one, makes another.
func (k *Kubelet) Delete(namespace, name string) error {
	p, err := k.find(namespace, name)
	if err != nil {
		return err
	}
	p.delete(0)
	return nil
}

// ErrNoPod means that no pod has the name that was asked for.
var ErrNoPod = errors.New("no such pod")

func (k *Kubelet) find(namespace, name string) (*pod, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.pods[key(namespace, name)]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("pod %s in namespace %s: %w", name, namespace, ErrNoPod)
}

// Exec starts a process in a running container of a pod; container "" is the
// first one. The files are borrowed; with tty they are not used and the
// process's Terminal is.
func (k *Kubelet) Exec(ctx context.Context, namespace, name, container string, argv []string, tty bool, stdin, stdout, stderr *os.File) (*sandbox.Process, error) {
	p, err := k.find(namespace, name)
	if err != nil {
		return nil, err
	}
	return p.exec(ctx, container, argv, tty, stdin, stdout, stderr)
}

// Dial connects to a port of a pod's loopback.
func (k *Kubelet) Dial(ctx context.Context, namespace, name string, port uint16) (*os.File, error) {
	p, err := k.find(namespace, name)
	if err != nil {
		return nil, err
	}
	sb := p.currentSandbox()
	if sb == nil {
		return nil, fmt.Errorf("pod %s in namespace %s has no sandbox yet", name, namespace)
	}
	return sb.Dial(ctx, port)
}
