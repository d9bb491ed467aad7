package holder

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/node"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/rotate"
	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/state"
)

// Command is the hidden command that becomes a holder.
const Command = "__holder"

// startTime bounds the way to Ready.
const startTime = 30 * time.Second

// Launched is a holder as its launcher sees it.
type Launched struct {
	// PID in the launcher's PID namespace.
	PID  int
	done chan struct{}
	err  error
	life *os.File
}

// Launch claims the state folder and starts a holder. It returns when commands
// are served; progress hears what is done meanwhile.
func Launch(ctx context.Context, cfg Config, progress func(string)) (*Launched, error) {
	lock, err := cfg.Dir.Claim()
	if err != nil {
		return nil, err
	}
	defer lock.File.Close() // the holder has its own by then
	cfg.Slot = lock.Slot
	l, report, err := start(cfg, lock)
	if err == nil {
		err = l.awaitReady(ctx, report, progress)
	}
	if err != nil {
		_ = lock.File.Close()
		return nil, errors.Join(err, cfg.Dir.Remove())
	}
	return l, nil
}

func start(cfg Config, lock *state.Lock) (*Launched, *os.File, error) {
	raw, err := json.Marshal(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("start the holder: %w", err)
	}
	reportR, reportW, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start the holder: %w", err)
	}
	defer reportW.Close()
	lifeR, lifeW, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start the holder: %w", err)
	}
	defer lifeR.Close()
	words, err := os.OpenFile(cfg.Dir.Stderr(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("start the holder: %w", err)
	}
	defer words.Close()
	// Not bound to ctx: the holder ends in its own order.
	c := node.Command(context.Background(), Command, string(raw))
	c.Dir = "/"
	c.Stdout, c.Stderr = words, words
	c.ExtraFiles = []*os.File{reportW, lifeR, lock.File}
	c.SysProcAttr.Setsid = true
	if err := c.Start(); err != nil {
		return nil, nil, fmt.Errorf("start the holder in namespaces of its own: %w", err)
	}
	l := &Launched{PID: c.Process.Pid, done: make(chan struct{}), life: lifeW}
	go func() {
		l.err = c.Wait()
		close(l.done)
	}()
	if err := cfg.Dir.Started(lock, l.PID); err != nil {
		l.Kill()
		return nil, nil, err
	}
	return l, reportR, nil
}

// awaitReady reads the holder's reports; it takes report.
func (l *Launched) awaitReady(ctx context.Context, report *os.File, progress func(string)) error {
	defer report.Close()
	_ = report.SetReadDeadline(time.Now().Add(startTime))
	stop := context.AfterFunc(ctx, func() { _ = report.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for s := bufio.NewScanner(report); s.Scan(); {
		var r Report
		if err := json.Unmarshal(s.Bytes(), &r); err != nil {
			continue
		}
		switch {
		case r.Err != "":
			<-l.done
			return errors.New(r.Err)
		case r.Ready:
			return nil
		}
		progress(r.Step)
	}
	l.Kill()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.New("the holder ended or hung before it served")
}

// Done is closed when the holder has ended; then Err says how.
func (l *Launched) Done() <-chan struct{} { return l.done }

// Err may be called after Done.
func (l *Launched) Err() error { return l.err }

// Leave tells a holder in the foreground that its launcher ends.
func (l *Launched) Leave() { _ = l.life.Close() }

// Kill ends the holder at once, and all with it.
func (l *Launched) Kill() {
	_ = unix.Kill(l.PID, syscall.SIGKILL)
	<-l.done
}

// Held is the holder of a mesh that somebody else launched.
type Held struct{ pidfd int }

// Find takes hold of the process that holds a mesh.
func Find(d state.Dir) (*Held, error) {
	h, err := d.Holder()
	if err != nil {
		return nil, fmt.Errorf("find the holder of %q: %w", d.Name(), err)
	}
	if h.PID <= 1 {
		return nil, fmt.Errorf("find the holder of %q: it has not begun", d.Name())
	}
	fd, err := unix.PidfdOpen(h.PID, 0)
	if err == nil && !d.Held() { // then the pid may be somebody else's by now
		_ = unix.Close(fd)
		err = unix.ESRCH
	}
	if err != nil {
		return nil, fmt.Errorf("find the holder of %q: %w", d.Name(), err)
	}
	return &Held{pidfd: fd}, nil
}

// Kill ends it at once, and all with it.
func (h *Held) Kill() error {
	if err := unix.PidfdSendSignal(h.pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end the holder: %w", err)
	}
	return nil
}

// Await waits until it and all processes below it have ended.
func (h *Held) Await(ctx context.Context) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(h.pidfd), Events: unix.POLLIN}}, 20)
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wait for the holder: %w", err)
		case ctx.Err() != nil:
			return fmt.Errorf("wait for the holder: %w", ctx.Err())
		}
	}
}

// Close lets go of it.
func (h *Held) Close() { _ = unix.Close(h.pidfd) }

// LastWords is what the holder of a mesh wrote before it ended.
func LastWords(d state.Dir) string { return rotate.Tail(d.Stderr(), 2048) }
