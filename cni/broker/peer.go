package broker

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/internal/seqpacket"
)

// soPeerPIDFD is SO_PEERPIDFD of include/uapi/asm-generic/socket.h, Linux 6.5.
const soPeerPIDFD = 77

// peer is the process that connected, pinned by a pidfd: as long as alive
// says so after the last look at /proc, what was read there was about it.
type peer struct {
	pidfd int
	pid   int
}

func peerOf(c *seqpacket.Conn) (peer, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return peer{}, fmt.Errorf("reach the socket: %w", err)
	}
	var p peer
	cerr := rc.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			err = fmt.Errorf("read the peer's credentials: %w", err)
			return
		}
		if p.pidfd, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, soPeerPIDFD); err == nil {
			return
		}
		if !errors.Is(err, unix.ENOPROTOOPT) {
			err = fmt.Errorf("read the peer's pidfd: %w", err)
			return
		}
		// Before Linux 6.5 the credentials' pid is all there is. It may have been
		// given to another process since the connect, but only to one of a
		// container that would be judged by itself.
		if p.pidfd, err = unix.PidfdOpen(int(cred.Pid), 0); err != nil {
			err = fmt.Errorf("open a pidfd of %d: %w", cred.Pid, err)
		}
	})
	if cerr != nil {
		return peer{}, fmt.Errorf("reach the socket: %w", cerr)
	}
	if err != nil {
		return peer{}, err
	}
	unix.CloseOnExec(p.pidfd)
	if p.pid, err = pidOfPidfd(p.pidfd); err != nil {
		p.close()
		return peer{}, err
	}
	return p, nil
}

func (p peer) close() { _ = unix.Close(p.pidfd) }

// alive reports that the process has not ended.
func (p peer) alive() bool {
	fds := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 0
}

// process reads what the kernel says about the peer.
func (p peer) process() (Process, error) {
	ns, err := namespaceOfPath(fmt.Sprintf("/proc/%d/ns/pid", p.pid))
	if err != nil {
		return Process{}, err
	}
	cg, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.pid))
	if err != nil {
		return Process{}, fmt.Errorf("read the peer's cgroup: %w", err)
	}
	if !p.alive() {
		return Process{}, errors.New("the peer has ended")
	}
	return Process{PID: p.pid, PIDNS: ns, Cgroup: string(cg)}, nil
}

// pidOfPidfd reads the Pid line of the descriptor's fdinfo (pidfd_open(2)).
func pidOfPidfd(fd int) (int, error) {
	f, err := os.Open(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return 0, fmt.Errorf("read a pidfd's pid: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "Pid:"); ok {
			pid, err := strconv.Atoi(strings.TrimSpace(v))
			if err != nil || pid <= 0 {
				return 0, fmt.Errorf("the peer has ended or is in a foreign PID namespace (pid %s)", strings.TrimSpace(v))
			}
			return pid, nil
		}
	}
	return 0, errors.New("read a pidfd's pid: no Pid line")
}
