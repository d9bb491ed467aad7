package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// exec starts a process in a running container. It borrows fds: stdin, stdout,
// stderr, or none with a terminal, whose master is returned.
func (s *supervisor) exec(r execRequest, fds []int) (started, []*os.File, error) {
	c, err := s.get(r.Proc)
	if err != nil {
		return started{}, nil, fmt.Errorf("exec: the container is not running: %w", err)
	}
	if c.mnt == nil {
		return started{}, nil, errors.New("exec: not a container")
	}
	if want := map[bool]int{true: 0, false: 3}[r.TTY]; len(fds) != want {
		return started{}, nil, fmt.Errorf("exec: %d descriptors, want %d", len(fds), want)
	}
	var files []*os.File
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	for _, fd := range fds {
		f, err := dupFile(fd)
		if err != nil {
			return started{}, nil, err
		}
		files = append(files, f)
	}
	j := &join{container: c, spec: r.Exec, files: files, done: make(chan struct{})}
	go j.run()
	<-j.done
	if j.err != nil {
		return started{}, nil, fmt.Errorf("exec %s: %w", r.Argv, j.err)
	}
	p := &process{os: j.proc}
	id := s.add(p)
	go s.wait(id, p)
	var send []*os.File
	if j.master != nil {
		send = append(send, j.master)
	}
	return started{Proc: id}, send, nil
}

// join starts one process from a thread that enters the container and dies
// with its goroutine.
type join struct {
	container *process
	spec      Exec
	files     []*os.File
	done      chan struct{}

	proc   *os.Process
	master *os.File
	err    error
}

func (j *join) run() {
	// Never unlocked: the thread has become the container's and ends here.
	runtime.LockOSThread()
	defer close(j.done)
	j.err = j.start()
	if j.err != nil && j.master != nil {
		_ = j.master.Close()
	}
}

func (j *join) start() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the shared root: %w", err)
	}
	if err := unix.Setns(int(j.container.mnt.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the container's mounts: %w", err)
	}
	if err := unix.Setns(int(j.container.pid.Fd()), unix.CLONE_NEWPID); err != nil {
		return fmt.Errorf("enter the container's processes: %w", err)
	}
	sys := &syscall.SysProcAttr{Setsid: true}
	if j.spec.TTY {
		slave, err := j.terminal()
		if err != nil {
			return err
		}
		defer slave.Close()
		j.files = []*os.File{slave, slave, slave}
		sys.Setctty = true
	}
	dir := j.spec.Dir
	if dir == "" {
		dir = "/"
	}
	if err := become(j.spec.Identity); err != nil {
		return err
	}
	prog, err := lookPath(j.spec.Argv, j.spec.Env)
	if err != nil {
		return err
	}
	env := j.spec.Env
	if env == nil {
		env = []string{}
	}
	j.proc, err = os.StartProcess(prog, j.spec.Argv, &os.ProcAttr{Dir: dir, Env: env, Files: j.files, Sys: sys})
	return err
}

// terminal makes one in the container's /dev/pts.
func (j *join) terminal() (slave *os.File, err error) {
	j.master, err = os.OpenFile("/dev/pts/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("make a terminal: %w", err)
	}
	if err := unix.IoctlSetPointerInt(int(j.master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(int(j.master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return nil, fmt.Errorf("name the terminal: %w", err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the terminal: %w", err)
	}
	if err := slave.Chown(int(j.spec.UID), int(j.spec.GID)); err != nil {
		return nil, errors.Join(err, slave.Close())
	}
	return slave, nil
}
