package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/seqpacket"
)

// nsfs ioctl: the type of a namespace descriptor (ioctl_ns(2)).
const nsGetNSType = 0xb703

// Registry is Containers for runtimes that register the sidecar's container by
// a descriptor of its PID namespace. The descriptor is held as long as the
// registration: as long as it is, no other namespace can have its number.
type Registry struct {
	hold Holder
	mu   sync.Mutex
	ns   map[string]registration
}

// registration keeps its own descriptor too: the Holder may die first.
type registration struct {
	id NamespaceID
	fd int
}

// Holder keeps descriptors over restarts; *keeper.Client is one.
type Holder interface {
	Put(name string, fds ...int) error
	Get(name string) ([]int, error)
	Delete(name string) error
	List() ([]string, error)
}

// NewRegistry makes an empty registry that holds its descriptors with hold.
func NewRegistry(hold Holder) *Registry {
	return &Registry{hold: hold, ns: map[string]registration{}}
}

// Register makes the PID namespace behind nsfd the sidecar container of the
// sandbox, in place of an earlier one. It borrows nsfd.
func (r *Registry) Register(sandbox string, nsfd int) error {
	kind, err := unix.IoctlRetInt(nsfd, nsGetNSType)
	if err != nil || kind != unix.CLONE_NEWPID {
		return fmt.Errorf("register the sidecar of %s: the descriptor is no PID namespace", sandbox)
	}
	id, err := namespaceOfFD(nsfd)
	if err != nil {
		return fmt.Errorf("register the sidecar of %s: %w", sandbox, err)
	}
	own, err := namespaceOfPath("/proc/self/ns/pid")
	if err != nil {
		return fmt.Errorf("register the sidecar of %s: %w", sandbox, err)
	}
	if id == own {
		return fmt.Errorf("register the sidecar of %s: it shares the agent's PID namespace, which tells nobody apart", sandbox)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	dup, err := unix.FcntlInt(uintptr(nsfd), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		if err = r.hold.Put(sandbox+pidnsSuffix, nsfd); err != nil {
			_ = unix.Close(dup)
		}
	}
	if err != nil {
		return fmt.Errorf("register the sidecar of %s: %w", sandbox, err)
	}
	r.set(sandbox, registration{id: id, fd: dup})
	return nil
}

func (r *Registry) set(sandbox string, n registration) {
	if old, ok := r.ns[sandbox]; ok {
		_ = unix.Close(old.fd)
	}
	r.ns[sandbox] = n
}

// Unregister forgets the sandbox's container.
func (r *Registry) Unregister(sandbox string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.ns[sandbox]; ok {
		_ = unix.Close(old.fd)
		delete(r.ns, sandbox)
	}
	return r.hold.Delete(sandbox + pidnsSuffix)
}

// Restore reads back what was held for the sandbox before a restart.
func (r *Registry) Restore(sandbox string) error {
	fds, err := r.hold.Get(sandbox + pidnsSuffix)
	if err != nil || len(fds) == 0 {
		return err
	}
	seqpacket.CloseAll(fds[1:])
	id, err := namespaceOfFD(fds[0])
	if err != nil {
		_ = unix.Close(fds[0])
		return err
	}
	r.mu.Lock()
	r.set(sandbox, registration{id: id, fd: fds[0]})
	r.mu.Unlock()
	return nil
}

// Reheld puts every registration again into a Holder that lost them.
func (r *Registry) Reheld() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for sandbox, n := range r.ns {
		errs = append(errs, r.hold.Put(sandbox+pidnsSuffix, n.fd))
	}
	return errors.Join(errs...)
}

// Verify implements Containers.
func (r *Registry) Verify(_ context.Context, sandbox string, p Process) error {
	r.mu.Lock()
	want, ok := r.ns[sandbox]
	r.mu.Unlock()
	switch {
	case !ok:
		return errors.New("the runtime has not registered a sidecar container for this pod")
	case p.PIDNS != want.id:
		return errors.New("the process is not in the sidecar's container")
	}
	return nil
}
