package sandbox

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The filter is what container runtimes call RuntimeDefault, cut down to what
// matters inside a user namespace: doors to the kernel that containers do not
// need, sockets that know no network namespace (AF_VSOCK talks past any mesh),
// and the walk over mount namespaces: the sidecar's belongs to the pod's user
// namespace, and kernels of 2024 and 2025 (6.12 and later, until it was
// restricted) open it for the app's root, with the token in it. Foreign ABIs (i386, x32) are refused: their calls could not be judged.

// deniedCalls fail with EPERM.
func deniedCalls() []uint32 {
	return []uint32{
		unix.SYS_KEXEC_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
		unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_OPEN_BY_HANDLE_AT,
		unix.SYS_ADD_KEY, unix.SYS_KEYCTL, unix.SYS_REQUEST_KEY, unix.SYS_IO_URING_SETUP,
		unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_REBOOT, unix.SYS_ACCT, unix.SYS_QUOTACTL,
	}
}

// Offsets in struct seccomp_data (little-endian halves of args[0]).
const (
	dataNr   = 0
	dataArch = 4
	dataArg0 = 16
	dataArg1 = 24
)

// deniedIoctls are what NS_MNT_GET_NEXT and NS_MNT_GET_PREV (linux/nsfs.h) have in
// common over all sizes of their argument: type and number.
func deniedIoctls() []uint32 { return []uint32{0xb70b, 0xb70c} }

// filter assembles the program for this machine's architecture.
func filter(arch uint32, x32 bool) []unix.SockFilter {
	const deny = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	load := func(off uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
	}
	ret := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	// skipUnless jumps over the next instruction unless A equals k.
	skipUnless := func(k uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: k}
	}
	p := []unix.SockFilter{
		load(dataArch),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: arch},
		ret(deny),
		load(dataNr),
	}
	if x32 {
		p = append(p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, Jf: 1, K: 0x40000000}, ret(deny))
	}
	for _, nr := range deniedCalls() {
		p = append(p, skipUnless(nr), ret(deny))
	}
	// ioctl(…, one of those, …). A holds the number of the call again afterwards.
	var ioctls []unix.SockFilter
	for _, cmd := range deniedIoctls() {
		ioctls = append(ioctls, skipUnless(cmd), ret(deny))
	}
	p = append(p,
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: uint8(len(ioctls) + 3), K: unix.SYS_IOCTL}, //nolint:gosec // a handful
		load(dataArg1), unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0xffff})
	p = append(p, ioctls...)
	p = append(p, load(dataNr))
	return append(p,
		// socket(AF_VSOCK, …): allowed unless both match.
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 3, K: unix.SYS_SOCKET},
		load(dataArg0),
		skipUnless(unix.AF_VSOCK),
		ret(deny),
		ret(unix.SECCOMP_RET_ALLOW),
	)
}

// installFilter puts the calling thread, and what it becomes, under the filter.
func installFilter() error {
	var p []unix.SockFilter
	switch runtime.GOARCH {
	case "amd64":
		p = filter(unix.AUDIT_ARCH_X86_64, true)
	case "arm64":
		p = filter(unix.AUDIT_ARCH_AARCH64, false)
	default:
		return fmt.Errorf("system call filter: not known for %s", runtime.GOARCH)
	}
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); e != 0 {
		return fmt.Errorf("install the system call filter: %w", e)
	}
	return nil
}
