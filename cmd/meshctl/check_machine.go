//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/render"
)

// machineChecks are what a local mesh needs of this machine.
func (a *app) machineChecks() []render.CheckResult {
	return []render.CheckResult{
		check("is root", "root", a.needRoot),
		check("/dev/net/tun can be opened", "tun", tunOpens),
		check("network and user namespaces can be made", "namespaces", namespacesExist),
		warn("the kernel names peers by pidfd (Linux 6.5)", "pidfd", peersByPidfd),
		check("programs and CNI plugins are beside meshctl", "programs", programsAreThere),
	}
}

func tunOpens() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w; load the tun module", err)
	}
	return unix.Close(fd)
}

func namespacesExist() error {
	for _, n := range []string{"net", "user", "pid", "mnt", "uts", "ipc"} {
		if _, err := os.Stat("/proc/self/ns/" + n); err != nil {
			return fmt.Errorf("this kernel has no %s namespaces", n)
		}
	}
	raw, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
	if err == nil && strings.TrimSpace(string(raw)) == "0" {
		return fmt.Errorf("user namespaces are switched off: sysctl user.max_user_namespaces is 0")
	}
	return nil
}

func peersByPidfd() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket pair: %w", err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	const soPeerPIDFD = 77
	fd, err := unix.GetsockoptInt(fds[0], unix.SOL_SOCKET, soPeerPIDFD)
	if err != nil {
		return fmt.Errorf("SO_PEERPIDFD: %w; the agent opens a pidfd of the peer's pid instead", err)
	}
	return unix.Close(fd)
}

func programsAreThere() error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	var missing []string
	for _, p := range []string{"mesh-proxy", "mesh-control", "mesh-cni", "cni/bridge", "cni/host-local"} {
		if _, err := os.Stat(filepath.Join(filepath.Dir(exe), p)); err != nil {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing in %s: %s; make build puts them there", filepath.Dir(exe), strings.Join(missing, ", "))
	}
	return nil
}
