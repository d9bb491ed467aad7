package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/rotate"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/sandbox"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

// maxLog bounds a container's log file; the one before it is kept beside it.
const maxLog = 1 << 20

// runner runs one container of a pod in one sandbox, again and again as its
// restart policy says.
type runner struct {
	p       *pod
	c       *corev1.Container
	index   int // in the manifest's list
	init    bool
	sidecar bool // an init container that keeps running
	sandbox string
	sb      *sandbox.Pod
	vols    []sandbox.Volume
	// launched: run was called. The pod's worker's alone.
	launched bool

	stopOnce sync.Once
	stop     chan struct{} // closed: end it
	began    chan struct{} // closed: it runs and its hook and startup probe succeeded
	ended    chan struct{} // closed: it will not run again

	mu   sync.Mutex
	proc *sandbox.Process
	env  []string
	id   sandbox.Identity
	last sandbox.Exit
}

// runners are those of a pod.
type runners struct{ all, init, app []*runner }

func (p *pod) newRunners(id string, sb *sandbox.Pod, vols []sandbox.Volume) runners {
	var rs runners
	add := func(list []corev1.Container, init bool) {
		for i := range list {
			c := &list[i]
			r := &runner{p: p, c: c, index: i, init: init, sandbox: id, sb: sb, vols: vols,
				stop: make(chan struct{}), began: make(chan struct{}), ended: make(chan struct{})}
			r.sidecar = init && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
			if init {
				rs.init = append(rs.init, r)
			} else {
				rs.app = append(rs.app, r)
			}
			rs.all = append(rs.all, r)
		}
	}
	add(p.object.Spec.InitContainers, true)
	add(p.object.Spec.Containers, false)
	return rs
}

// end asks the container to end, within what is left of its pod's grace.
func (r *runner) end() { r.stopOnce.Do(func() { close(r.stop) }) }

// await waits until the container has ended. One that never ran has.
func (r *runner) await(ctx context.Context) {
	if !r.launched {
		return
	}
	select {
	case <-r.ended:
	case <-ctx.Done():
	}
}

func (r *runner) failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last.Code != 0
}

// run is the container's life.
func (r *runner) run(ctx context.Context) {
	defer close(r.ended)
	b := backoff{max: r.p.k.cfg.MaxBackoff}
	for {
		start := time.Now()
		exit, err := r.once(ctx)
		if err != nil {
			exit = sandbox.Exit{Code: 128}
		}
		r.mu.Lock()
		r.proc, r.last = nil, exit
		r.mu.Unlock()
		again := r.again(exit) && !r.stopping(ctx)
		wait := b.next(time.Since(start))
		r.p.containerEnded(r, start, exit, err, again, wait)
		if !again || !r.pause(ctx, wait) {
			return
		}
	}
}

func (r *runner) stopping(ctx context.Context) bool {
	select {
	case <-r.stop:
		return true
	case <-ctx.Done():
		return true
	case <-r.sb.Gone():
		return true
	default:
		return false
	}
}

func (r *runner) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return !r.stopping(ctx)
	case <-r.stop:
	case <-ctx.Done():
	case <-r.sb.Gone():
	}
	return false
}

// again is the restart policy.
func (r *runner) again(exit sandbox.Exit) bool {
	policy := r.p.object.Spec.RestartPolicy
	switch {
	case r.sidecar:
		return true
	case r.init:
		return exit.Code != 0 && policy != corev1.RestartPolicyNever
	case policy == corev1.RestartPolicyNever:
		return false
	case policy == corev1.RestartPolicyOnFailure:
		return exit.Code != 0
	}
	return true
}

// once starts the container and waits for its end.
func (r *runner) once(ctx context.Context) (sandbox.Exit, error) {
	spec, err := r.spec()
	if err != nil {
		return sandbox.Exit{}, err
	}
	out, err := r.output()
	if err != nil {
		return sandbox.Exit{}, err
	}
	proc, err := r.sb.Start(ctx, spec, out.w, out.w)
	_ = out.w.Close()
	if err != nil {
		out.wait()
		return sandbox.Exit{}, err
	}
	defer out.wait()
	defer proc.PIDNS.Close()
	if r.isProxy() {
		// Before its program: an unknown process gets nothing from the agent.
		if err := r.register(ctx, proc); err != nil {
			kill(ctx, proc)
			return sandbox.Exit{}, err
		}
	}
	if err := proc.Release(ctx); err != nil {
		kill(ctx, proc)
		return sandbox.Exit{}, err
	}
	r.mu.Lock()
	r.proc, r.env, r.id = proc, spec.Env, spec.Identity
	r.mu.Unlock()
	r.p.containerRuns(r)
	return r.attend(ctx, proc), nil
}

// isProxy: the container is the injected sidecar.
func (r *runner) isProxy() bool {
	return r.c.Name == annotation.SidecarContainer && r.p.object.Annotations[annotation.Injected] != ""
}

// register tells the node's agent, which may be restarting.
func (r *runner) register(ctx context.Context, proc *sandbox.Process) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := r.p.k.cfg.Registrar.Register(ctx, r.sandbox, int(proc.PIDNS.Fd()))
		if err == nil {
			return nil
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return err
		}
	}
}

// kill ends the process and waits. An error of the signal means that it, or its
// sandbox, has ended.
func kill(ctx context.Context, proc *sandbox.Process) {
	_ = proc.Signal(context.WithoutCancel(ctx), syscall.SIGKILL)
	<-proc.Done()
}

func (r *runner) spec() (sandbox.Container, error) {
	object := r.p.snapshot()
	env, err := environment(object, r.c, r.p.set())
	if err != nil {
		return sandbox.Container{}, err
	}
	id, err := identity(object, r.c)
	if err != nil {
		return sandbox.Container{}, err
	}
	return sandbox.Container{
		Name: r.c.Name, Argv: command(r.c, env), Env: env, Dir: r.c.WorkingDir,
		Identity: id, Mounts: mounts(r.c, env, r.vols),
		ReadOnly: r.c.SecurityContext != nil && isTrue(r.c.SecurityContext.ReadOnlyRootFilesystem),
	}, nil
}

// output is the pipe from a container to its log.
type output struct {
	w    *os.File
	log  *rotate.File
	done chan struct{}
}

func (r *runner) output() (*output, error) {
	l, err := rotate.Open(filepath.Join(r.p.logDir(), r.c.Name+".log"), maxLog)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	o := &output{w: pw, log: l, done: make(chan struct{})}
	go o.copy(pr)
	return o, nil
}

func (o *output) copy(from *os.File) {
	defer close(o.done)
	_, _ = io.Copy(onlyWriter{o.log}, from) // ends with the last holder of the other end
	_ = from.Close()
	_ = o.log.Close()
}

// onlyWriter hides other methods, so that io.Copy uses a bounded buffer.
type onlyWriter struct{ io.Writer }

func (o *output) wait() { <-o.done }

// attend watches a running container until it has ended: probes ask, and it is
// ended when it must.
func (r *runner) attend(ctx context.Context, proc *sandbox.Process) sandbox.Exit {
	probes, stop := context.WithCancel(ctx)
	unhealthy := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { r.probe(probes, proc, unhealthy) })
	defer wg.Wait()
	defer stop()
	grace := time.Duration(0)
	select {
	case <-proc.Done():
		return proc.Exit()
	case <-ctx.Done():
	case <-r.stop:
		grace = r.p.left()
	case err := <-unhealthy:
		r.p.k.cfg.Log.Info("a container is unhealthy and ended", "pod", r.p.object.Name, "container", r.c.Name, "error", err)
		r.p.containerUnready(r)
		grace = r.p.left()
	}
	stop()
	return r.terminate(ctx, proc, grace)
}

// terminate asks the container to end, and ends it when it does not.
func (r *runner) terminate(ctx context.Context, proc *sandbox.Process, grace time.Duration) sandbox.Exit {
	if grace > 0 {
		_ = proc.Signal(ctx, syscall.SIGTERM)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(grace); time.Now().Before(deadline); {
			select {
			case <-proc.Done():
				return proc.Exit()
			case <-ctx.Done():
				deadline = time.Time{}
			case <-tick.C:
				if r.p.deleting() && r.p.left() == 0 { // its deadline may have come nearer
					deadline = time.Time{}
				}
			}
		}
	}
	kill(ctx, proc)
	return proc.Exit()
}

// probe runs the postStart hook and the startup probe, then the others, and says when
// the container must be ended.
func (r *runner) probe(ctx context.Context, proc *sandbox.Process, unhealthy chan<- error) {
	q := &prober{addr: r.p.address(), c: r.c, exec: func(ctx context.Context, argv []string) (int, error) {
		return r.probeExec(ctx, proc, argv)
	}}
	die := func(kind string, err error) {
		select {
		case unhealthy <- fmt.Errorf("%s: %w", kind, err):
		default: // it is being ended already
		}
	}
	if l := r.c.Lifecycle; l != nil && l.PostStart != nil {
		code, err := r.probeExec(ctx, proc, l.PostStart.Exec.Command)
		if err == nil && code != 0 {
			err = fmt.Errorf("exit code %d", code)
		}
		if err != nil {
			die("postStart hook", fmt.Errorf("%q: %w", l.PostStart.Exec.Command, err))
			return
		}
	}
	if s := r.c.StartupProbe; s != nil {
		begun, cancel := context.WithCancel(ctx)
		ok := false
		q.watch(begun, s, func(good bool, why error) {
			if ok = good; !good {
				die("startup probe", why)
			}
			cancel()
		})
		cancel()
		if !ok {
			return
		}
	}
	r.p.containerBegan(r)
	var wg sync.WaitGroup
	defer wg.Wait()
	if l := r.c.LivenessProbe; l != nil {
		wg.Go(func() {
			q.watch(ctx, l, func(good bool, why error) {
				if !good {
					die("liveness probe", why)
				}
			})
		})
	}
	if rp := r.c.ReadinessProbe; rp != nil {
		wg.Go(func() { q.watch(ctx, rp, func(good bool, _ error) { r.p.containerReady(r, good) }) })
	} else {
		r.p.containerReady(r, true)
	}
}

func (r *runner) probeExec(ctx context.Context, proc *sandbox.Process, argv []string) (int, error) {
	null, err := devNull()
	if err != nil {
		return 0, err
	}
	defer null.Close()
	r.mu.Lock()
	e := sandbox.Exec{Argv: argv, Env: r.env, Dir: r.c.WorkingDir, Identity: r.id}
	r.mu.Unlock()
	x, err := r.sb.Exec(ctx, proc, e, null, null, null)
	if err != nil {
		return 0, err
	}
	select {
	case <-x.Done():
		return x.Exit().Code, nil
	case <-ctx.Done():
		_ = x.Signal(context.WithoutCancel(ctx), syscall.SIGKILL)
		return 0, errors.New("it took too long")
	}
}

func (r *runner) exec(ctx context.Context, sb *sandbox.Pod, argv []string, tty bool, stdin, stdout, stderr *os.File) (*sandbox.Process, error) {
	r.mu.Lock()
	proc := r.proc
	e := sandbox.Exec{Argv: argv, Env: r.env, Dir: r.c.WorkingDir, Identity: r.id, TTY: tty}
	r.mu.Unlock()
	if proc == nil || sb == nil {
		return nil, fmt.Errorf("container %s of pod %s is not running", r.c.Name, r.p.object.Name)
	}
	if tty {
		e.Env = append(e.Env[:len(e.Env):len(e.Env)], "TERM=xterm")
	}
	return sb.Exec(ctx, proc, e, stdin, stdout, stderr)
}
