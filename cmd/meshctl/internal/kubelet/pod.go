package kubelet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/sandbox"
	"github.com/tunmesh/tunmesh/control/files"
)

// delTime bounds what CNI's DEL may take.
const delTime = 30 * time.Second

// pod is the worker of one pod: from its creation to its end, through as many
// sandboxes as that takes.
type pod struct {
	k      *Kubelet
	owner  string
	hash   string
	idBase uint32
	// deleted is closed when the pod is to end, sync says that Apply was called.
	deleted chan struct{}
	sync    chan struct{}

	mu       sync.Mutex
	object   *corev1.Pod // status included
	sb       *sandbox.Pod
	runners  []*runner // of the present sandbox, in the order of the manifest
	grace    time.Duration
	deadline time.Time // of the deletion
}

func newPod(k *Kubelet, w workload, object *corev1.Pod, idBase uint32) *pod {
	p := &pod{k: k, owner: w.owner, hash: w.hash, idBase: idBase, object: object,
		deleted: make(chan struct{}), sync: make(chan struct{}, 1)}
	p.grace = 30 * time.Second
	if g := object.Spec.TerminationGracePeriodSeconds; g != nil {
		p.grace = time.Duration(*g) * time.Second
	}
	object.Spec.NodeName = k.cfg.NodeName
	p.initStatus()
	return p
}

// delete asks the pod to end; a grace above 0 shortens its own.
func (p *pod) delete(grace time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if grace > 0 && grace < p.grace {
		p.grace = grace
	}
	select {
	case <-p.deleted:
		if d := time.Now().Add(p.grace); d.Before(p.deadline) {
			p.deadline = d
		}
		return
	default:
	}
	p.deadline = time.Now().Add(p.grace)
	now, seconds := metav1.Now(), int64(p.grace/time.Second)
	p.object.DeletionTimestamp, p.object.DeletionGracePeriodSeconds = &now, &seconds
	close(p.deleted)
	p.publishLocked()
}

func (p *pod) deleting() bool {
	select {
	case <-p.deleted:
		return true
	default:
		return false
	}
}

func (p *pod) logDir() string {
	return filepath.Join(p.k.cfg.LogDir, LogFolder(p.object))
}

// LogFolder is the folder of a pod's logs in Config.LogDir.
func LogFolder(p *corev1.Pod) string {
	return p.Namespace + "_" + p.Name + "_" + string(p.UID)
}

func (p *pod) currentSandbox() *sandbox.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sb
}

// run is the worker. It returns when the pod has ended and is to be forgotten.
func (p *pod) run(ctx context.Context) {
	b := backoff{max: p.k.cfg.MaxBackoff}
	for !p.deleting() && ctx.Err() == nil {
		began := time.Now()
		err := p.life(ctx)
		if err == nil || ctx.Err() != nil || p.deleting() {
			return
		}
		p.k.cfg.Log.Warn("a pod's sandbox ended", "pod", key(p.object.Namespace, p.object.Name), "error", err)
		p.sandboxFailed(err)
		if !p.pause(ctx, b.next(time.Since(began))) {
			return
		}
	}
}

// pause waits, and reports false when the pod is to end.
func (p *pod) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-p.deleted:
		return false
	case <-t.C:
		return true
	}
}

// life is one sandbox. nil means that the pod is done, an error that it needs
// another sandbox.
func (p *pod) life(ctx context.Context) error {
	vols, ttl, err := volumes(p.snapshot(), p.set(), p.k.cfg.Tokens)
	if err != nil {
		return err
	}
	id := randomHex(8)
	sb, err := p.k.cfg.Base.Start(ctx, sandbox.Spec{ID: id, Hostname: p.hostname(), IDBase: p.idBase, Points: points(p.object, vols)})
	if err != nil {
		return err
	}
	at := Attachment{Sandbox: id, NetNS: sb.NetNS(), Namespace: p.object.Namespace, Name: p.object.Name,
		UID: string(p.object.UID), Annotations: p.object.Annotations}
	defer p.tearDown(ctx, sb, at)
	addrs, err := p.k.cfg.Network.Add(ctx, at)
	if err != nil {
		return err
	}
	p.setAddrs(addrs)
	if err := sb.SetEtc(ctx, p.hosts(addrs), p.resolv(), p.hostname()+"\n"); err != nil {
		return err
	}
	// Once more: some of them tell the pod's address.
	if vols, ttl, err = volumes(p.snapshot(), p.set(), p.k.cfg.Tokens); err != nil {
		return err
	}
	for _, v := range vols {
		if err := sb.SetVolume(ctx, v); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { p.refresh(ctx, sb, vols, ttl) })
	return p.runContainers(ctx, sb, id, vols)
}

// tearDown ends the sandbox; what ran in it is gone before its network goes.
func (p *pod) tearDown(ctx context.Context, sb *sandbox.Pod, at Attachment) {
	p.mu.Lock()
	p.sb = nil
	p.mu.Unlock()
	_ = sb.Kill()
	<-sb.Gone()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), delTime)
	defer cancel()
	if err := p.k.cfg.Network.Del(ctx, at); err != nil {
		p.k.cfg.Log.Warn("remove a pod's network", "pod", key(at.Namespace, at.Name), "error", err)
	}
	sb.Close()
}

// refresh keeps what the runtime writes into volumes up to date: tokens at 80 %
// of their life, ConfigMaps and Secrets when something is applied.
func (p *pod) refresh(ctx context.Context, sb *sandbox.Pod, have []sandbox.Volume, ttl time.Duration) {
	for {
		var renew <-chan time.Time
		var t *time.Timer
		if ttl > 0 {
			t = time.NewTimer(ttl * 8 / 10)
			renew = t.C
		}
		select {
		case <-ctx.Done():
			return
		case <-sb.Gone():
			return
		case <-p.sync:
		case <-renew:
		}
		if t != nil {
			t.Stop()
		}
		now, newTTL, err := p.rewrite(ctx, sb, have)
		if err != nil && ctx.Err() == nil {
			p.k.cfg.Log.Warn("refresh a pod's volumes", "pod", key(p.object.Namespace, p.object.Name), "error", err)
			ttl = max(ttl/8, time.Second) // sooner again
			continue
		}
		have, ttl = now, newTTL
	}
}

// rewrite changes the volumes that are not as they should be; tokens are always
// new ones.
func (p *pod) rewrite(ctx context.Context, sb *sandbox.Pod, have []sandbox.Volume) ([]sandbox.Volume, time.Duration, error) {
	now, ttl, err := volumes(p.snapshot(), p.set(), p.k.cfg.Tokens)
	if err != nil {
		return nil, 0, err
	}
	for i, v := range now {
		if v.Files == nil || sameFiles(v, have[i]) {
			continue
		}
		if err := sb.SetVolume(ctx, v); err != nil {
			return nil, 0, err
		}
	}
	return now, ttl, nil
}

func sameFiles(a, b sandbox.Volume) bool {
	byPath := func(x, y sandbox.File) int { return strings.Compare(x.Path, y.Path) }
	slices.SortFunc(a.Files, byPath)
	slices.SortFunc(b.Files, byPath)
	return reflect.DeepEqual(a.Files, b.Files)
}

// set is what is wanted now.
func (p *pod) set() *files.Set {
	p.k.mu.Lock()
	defer p.k.mu.Unlock()
	return p.k.desired
}

// runContainers runs init containers and sidecars in order, then the others,
// until the pod is to end, is done, or loses its sandbox.
func (p *pod) runContainers(ctx context.Context, sb *sandbox.Pod, id string, vols []sandbox.Volume) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	rs := p.newRunners(id, sb, vols)
	p.mu.Lock()
	p.sb, p.runners = sb, rs.all
	p.mu.Unlock()
	start := func(r *runner) {
		r.launched = true
		wg.Go(func() { r.run(ctx) })
	}

	for _, r := range rs.init {
		start(r)
		ready := r.ended
		if r.sidecar {
			ready = r.began
		}
		select {
		case <-ready:
		case <-r.ended: // a sidecar that ended is one that failed for good
		case <-p.deleted:
			return p.endAll(ctx, rs)
		case <-sb.Gone():
			return errors.New("its sandbox died")
		case <-ctx.Done():
			return ctx.Err()
		}
		if !r.sidecar && r.failed() {
			p.finish(corev1.PodFailed, "init container "+r.c.Name+" failed")
			return p.endAll(ctx, rs)
		}
	}
	p.initialized()
	for _, r := range rs.app {
		start(r)
	}
	done := make(chan struct{})
	wg.Go(func() { awaitEnded(rs.app, done) })
	select {
	case <-done:
		phase := corev1.PodSucceeded
		for _, r := range rs.app {
			if r.failed() {
				phase = corev1.PodFailed
			}
		}
		if ctx.Err() == nil && !p.deleting() {
			p.finish(phase, "")
		}
		return p.endAll(ctx, rs)
	case <-p.deleted:
		return p.endAll(ctx, rs)
	case <-sb.Gone():
		return errors.New("its sandbox died")
	case <-ctx.Done():
		return ctx.Err()
	}
}

func awaitEnded(rs []*runner, done chan<- struct{}) {
	defer close(done)
	for _, r := range rs {
		<-r.ended
	}
}

// endAll ends the containers, sidecars last and in reverse order, and keeps the
// status of a pod that is done until it is deleted.
func (p *pod) endAll(ctx context.Context, rs runners) error {
	for _, r := range slices.Concat(rs.init, rs.app) {
		if !r.sidecar {
			r.end()
		}
	}
	for _, r := range slices.Concat(rs.init, rs.app) {
		if !r.sidecar {
			r.await(ctx)
		}
	}
	for _, r := range slices.Backward(rs.init) {
		if r.sidecar {
			r.end()
			r.await(ctx)
		}
	}
	select {
	case <-p.deleted:
	case <-ctx.Done():
	}
	return nil
}

// left is what remains of the pod's grace.
func (p *pod) left() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.deadline.IsZero() {
		return p.grace
	}
	return max(time.Until(p.deadline), 0)
}

func (p *pod) hostname() string {
	if p.object.Spec.Hostname != "" {
		return p.object.Spec.Hostname
	}
	return p.object.Name
}

func (p *pod) hosts(addrs []netip.Addr) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	name := p.hostname()
	if sub := p.object.Spec.Subdomain; sub != "" {
		name = fmt.Sprintf("%s.%s.%s.svc.cluster.local\t%s", name, sub, p.object.Namespace, name)
	}
	for _, a := range addrs {
		fmt.Fprintf(&b, "%s\t%s\n", a, name)
	}
	for _, h := range p.object.Spec.HostAliases {
		fmt.Fprintf(&b, "%s\t%s\n", h.IP, strings.Join(h.Hostnames, " "))
	}
	return b.String()
}

// resolv is /etc/resolv.conf as a kubelet writes it for dnsPolicy ClusterFirst,
// with what dnsConfig adds.
func (p *pod) resolv() string {
	var servers, searches, options []string
	if p.object.Spec.DNSPolicy != corev1.DNSNone {
		for _, a := range p.k.cfg.DNS {
			servers = append(servers, a.String())
		}
		searches = []string{p.object.Namespace + ".svc.cluster.local", "svc.cluster.local", "cluster.local"}
		options = []string{"ndots:5"}
	}
	if c := p.object.Spec.DNSConfig; c != nil {
		servers = append(servers, c.Nameservers...)
		searches = append(searches, c.Searches...)
		for _, o := range c.Options {
			s := o.Name
			if o.Value != nil {
				s += ":" + *o.Value
			}
			options = append(options, s)
		}
	}
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintln(&b, "nameserver", s)
	}
	if len(searches) > 0 {
		fmt.Fprintln(&b, "search", strings.Join(searches, " "))
	}
	if len(options) > 0 {
		fmt.Fprintln(&b, "options", strings.Join(options, " "))
	}
	return b.String()
}

// exec starts a process in a running container.
func (p *pod) exec(ctx context.Context, container string, argv []string, tty bool, stdin, stdout, stderr *os.File) (*sandbox.Process, error) {
	p.mu.Lock()
	sb, rs := p.sb, p.runners
	p.mu.Unlock()
	if container == "" && len(p.object.Spec.Containers) > 0 {
		container = p.object.Spec.Containers[0].Name
	}
	for _, r := range rs {
		if r.c.Name == container {
			return r.exec(ctx, sb, argv, tty, stdin, stdout, stderr)
		}
	}
	if findContainer(p.object, container) != nil {
		return nil, fmt.Errorf("container %s of pod %s has not begun", container, p.object.Name)
	}
	return nil, fmt.Errorf("pod %s has no container %q", p.object.Name, container)
}

// backoff grows from almost nothing: the first restart is immediate, as a
// kubelet's. What ran for long begins anew.
type backoff struct {
	max, wait time.Duration
}

const (
	backoffStart = 100 * time.Millisecond
	backoffReset = 10 * time.Second
)

// next is how long to wait after a run of the given length.
func (b *backoff) next(ran time.Duration) time.Duration {
	if ran >= backoffReset {
		b.wait = 0
	}
	d := b.wait
	b.wait = min(max(2*b.wait, backoffStart), b.max)
	return d
}
