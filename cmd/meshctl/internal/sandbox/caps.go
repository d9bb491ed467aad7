package sandbox

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Caps is a set of capabilities, bit n for capability n.
type Caps uint64

// capNames in the order of their numbers, without CAP_ (capabilities(7)).
const capNames = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP " +
	"LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER " +
	"SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE " +
	"SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP " +
	"MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF " +
	"CHECKPOINT_RESTORE"

// AllCaps is every capability known here.
const AllCaps Caps = 1<<41 - 1

// DefaultCaps is what container runtimes give a container that says nothing.
const DefaultCaps = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FSETID | 1<<unix.CAP_FOWNER |
	1<<unix.CAP_MKNOD | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID | 1<<unix.CAP_SETFCAP |
	1<<unix.CAP_SETPCAP | 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_SYS_CHROOT | 1<<unix.CAP_KILL | Caps(1<<unix.CAP_AUDIT_WRITE)

// ParseCap reads a capability as manifests write it: "NET_ADMIN", "CAP_NET_ADMIN" or "ALL".
func ParseCap(name string) (Caps, error) {
	if name == "ALL" {
		return AllCaps, nil
	}
	for i, n := range strings.Fields(capNames) {
		if n == strings.TrimPrefix(name, "CAP_") {
			return 1 << i, nil
		}
	}
	return 0, fmt.Errorf("unknown capability %q", name)
}

// become turns the calling thread, and only it, into what id says: bounding set,
// groups, ids, capabilities, system call filter. The goroutine must be locked to
// the thread; the thread cannot be used for anything else afterwards. As root of
// the pod's user namespace only.
func become(id Identity) error {
	last := capLast()
	for c := range last + 1 {
		if id.Caps&(1<<c) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if id.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("set no_new_privs: %w", err)
		}
	}
	if id.Filter {
		// While CAP_SYS_ADMIN is still there: without no_new_privs it is needed.
		if err := installFilter(); err != nil {
			return err
		}
	}
	if err := setIDs(id); err != nil {
		return err
	}
	set := id.Caps & (1<<(last+1) - 1)
	if id.UID != 0 {
		set = 0
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{}
	for i := range data {
		half := uint32(set >> (32 * i))
		data[i] = unix.CapUserData{Effective: half, Permitted: half}
	}
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	return nil
}

// capLast is the highest capability that this kernel knows, at most ours.
func capLast() int {
	last := 0
	for c := 0; AllCaps&(1<<c) != 0; c++ {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err == nil {
			last = c
		}
	}
	return last
}
