package broker

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// Containers is what the runtime knows: whether a process belongs to the
// sidecar's container of a sandbox. `meshctl local` registers the container's
// PID namespace (Registry); in a cluster its runtime is asked (Runtime).
type Containers interface {
	// Verify returns nil when p is a process of the sidecar container of the
	// sandbox, else an error that says why not. Unknown is an error. p stays
	// alive during the call, or the caller finds out afterwards.
	Verify(ctx context.Context, sandbox string, p Process) error
}

// Process is a peer as the kernel names it.
type Process struct {
	// PID in the agent's PID namespace.
	PID int
	// PIDNS is its PID namespace's identity.
	PIDNS NamespaceID
	// Cgroup is the content of /proc/PID/cgroup.
	Cgroup string
}

// NamespaceID identifies a namespace while a descriptor of it is held: inode
// numbers are given out again once nobody holds one.
type NamespaceID struct{ Dev, Ino uint64 }

func namespaceOfFD(fd int) (NamespaceID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return NamespaceID{}, fmt.Errorf("stat namespace: %w", err)
	}
	return NamespaceID{Dev: st.Dev, Ino: st.Ino}, nil
}

func namespaceOfPath(path string) (NamespaceID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return NamespaceID{}, fmt.Errorf("stat %s: %w", path, err)
	}
	return NamespaceID{Dev: st.Dev, Ino: st.Ino}, nil
}
