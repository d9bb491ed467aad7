package sandbox

import (
	"testing"

	"golang.org/x/sys/unix"
)

// runFilter is as much of classic BPF as the filter uses.
func runFilter(t *testing.T, p []unix.SockFilter, arch, nr uint32, args ...uint32) uint32 {
	t.Helper()
	data := map[uint32]uint32{dataNr: nr, dataArch: arch}
	for i, a := range args {
		data[dataArg0+8*uint32(i)] = a
	}
	a := uint32(0)
	for pc := 0; pc < len(p); pc++ {
		in := p[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = data[in.K]
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= in.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(a == in.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(a >= in.K)
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		default:
			t.Fatalf("instruction %d: code %#x", pc, in.Code)
		}
	}
	t.Fatal("the filter runs off its end")
	return 0
}

func TestFilter(t *testing.T) {
	const arch = unix.AUDIT_ARCH_X86_64
	deny, allow := uint32(unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM)), uint32(unix.SECCOMP_RET_ALLOW)
	p := filter(arch, true)
	for name, c := range map[string]struct {
		arch, nr uint32
		args     []uint32
		want     uint32
	}{
		"read":                        {arch, unix.SYS_READ, nil, allow},
		"another ABI":                 {unix.AUDIT_ARCH_I386, unix.SYS_READ, nil, deny},
		"x32":                         {arch, 0x40000000, nil, deny},
		"bpf":                         {arch, unix.SYS_BPF, nil, deny},
		"open_by_handle_at":           {arch, unix.SYS_OPEN_BY_HANDLE_AT, nil, deny},
		"socket of AF_INET":           {arch, unix.SYS_SOCKET, []uint32{unix.AF_INET}, allow},
		"socket of AF_VSOCK":          {arch, unix.SYS_SOCKET, []uint32{unix.AF_VSOCK}, deny},
		"another call with AF_VSOCK":  {arch, unix.SYS_CONNECT, []uint32{unix.AF_VSOCK}, allow},
		"ioctl TCGETS":                {arch, unix.SYS_IOCTL, []uint32{1, unix.TCGETS}, allow},
		"ioctl on descriptor 40":      {arch, unix.SYS_IOCTL, []uint32{unix.AF_VSOCK, unix.TCGETS}, allow},
		"NS_MNT_GET_INFO":             {arch, unix.SYS_IOCTL, []uint32{3, 0x8010b70a}, allow},
		"NS_MNT_GET_NEXT":             {arch, unix.SYS_IOCTL, []uint32{3, 0x8010b70b}, deny},
		"NS_MNT_GET_PREV":             {arch, unix.SYS_IOCTL, []uint32{3, 0x8010b70c}, deny},
		"NS_MNT_GET_NEXT, wider":      {arch, unix.SYS_IOCTL, []uint32{3, 0x8020b70b}, deny},
		"that number in another call": {arch, unix.SYS_WRITE, []uint32{3, 0x8010b70b}, allow},
	} {
		if got := runFilter(t, p, c.arch, c.nr, c.args...); got != c.want {
			t.Errorf("%s: %#x, want %#x", name, got, c.want)
		}
	}
}
