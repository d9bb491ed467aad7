// Package hold is the process that a cluster depends on, outside of it: it starts
// the cluster's first process in new namespaces and removes everything when the
// cluster's owner ends, however that ends. It owns the cluster's folder and
// cgroups.
//
// Who dies and what follows:
//
//	owner (a test, or make cluster)   its end of the pipe closes: hold kills the
//	                                  cluster, removes all but the logs, and ends
//	hold                              the kernel kills the cluster (its parent-death
//	                                  signal); what is left is a folder and empty
//	                                  cgroups, which the next hold removes
//	the cluster's first process       the kernel kills all in its pid namespace;
//	                                  hold reports it and removes all but the logs
package hold

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/test/cluster/internal/fabric"
	"github.com/tunmesh/tunmesh/test/cluster/internal/layout"
	"github.com/tunmesh/tunmesh/test/cluster/internal/pki"
)

// Prefix begins the name of every cluster's folder.
const Prefix = "tunmesh-cluster-"

// Words with which an owner ends a cluster; no word is its death.
const (
	Clean = "clean" // remove the logs, too
	Keep  = "keep"  // keep the logs
)

// fdLock is the folder's lock, which the owner took: see Claim.
const fdLock = 3

// Main is the process: it reads the owner's word from its standard input, and
// writes fabric.Report lines to its standard output. It returns the exit code.
func Main(dir string) int {
	// The parent-death signal of the child follows the thread that started it.
	runtime.LockOSThread()
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE) // the owner's end is ours
	out := json.NewEncoder(os.Stdout)
	if err := run(dir, out); err != nil {
		_ = out.Encode(fabric.Report{Err: err.Error()}) // the owner may be gone
		return 1
	}
	return 0
}

func run(dir string, out *json.Encoder) (err error) {
	lock := os.NewFile(fdLock, "lock")
	unix.CloseOnExec(fdLock)
	defer lock.Close()
	c, err := layout.Load(dir)
	if err != nil {
		return err
	}
	for _, e := range Sweep(filepath.Dir(dir)) {
		fmt.Fprintln(os.Stderr, "remove an old cluster:", e)
	}
	word := Keep
	defer func() {
		if rerr := Remove(c, word == Clean); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for connections to the API server: %w", err)
	}
	defer l.Close()
	if err := pki.Make(c, "https://"+l.Addr().String()); err != nil {
		return err
	}
	cmd, report, err := start(c, l.(*net.TCPListener))
	if err != nil {
		return err
	}
	defer report.Close()
	asked := make(chan string, 1)
	go listen(asked)
	ended := make(chan error, 1)
	go func() { ended <- relay(report, out) }()
	select {
	case word = <-asked:
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		return nil
	case err := <-ended: // of the report's writers, who are the cluster
		_ = cmd.Process.Kill()
		werr := cmd.Wait()
		if err != nil {
			return err
		}
		return fmt.Errorf("the cluster's first process ended (%w): see %s", werr, c.Log("fabric"))
	}
}

// start runs the cluster's first process; report gets its lines.
func start(c layout.Cluster, l *net.TCPListener) (*exec.Cmd, *os.File, error) {
	log, err := os.OpenFile(c.Log("fabric"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	report, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer w.Close()
	lf, err := l.File()
	if err != nil {
		report.Close()
		return nil, nil, err
	}
	defer lf.Close()
	cmd := exec.Command(c.Self(), "fabric", c.Dir)
	cmd.Env = fabric.Env(c)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w, lf}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Pdeathsig: unix.SIGKILL,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if err := cmd.Start(); err != nil {
		report.Close()
		return nil, nil, fmt.Errorf("start the cluster's first process (root is needed for its namespaces): %w", err)
	}
	return cmd, report, nil
}

// listen returns the owner's last word at the end of its pipe.
func listen(asked chan<- string) {
	raw, _ := io.ReadAll(os.Stdin)
	word := strings.TrimSpace(string(raw))
	if word != Clean {
		word = Keep
	}
	asked <- word
}

// relay passes reports on until the cluster ends; it returns the error that the
// cluster gave.
func relay(report io.Reader, out *json.Encoder) error {
	lines := bufio.NewScanner(report)
	for lines.Scan() {
		var r fabric.Report
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue // cut off by the end
		}
		if r.Err != "" {
			return errors.New(r.Err)
		}
		_ = out.Encode(r) // the owner may be gone: its word says so
	}
	return nil
}
