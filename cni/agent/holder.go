package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tunmesh/tunmesh/cni/keeper"
)

// holder is a broker.Holder over the keeper process, which it starts when
// nobody answers. A keeper that died lost everything: lost then puts it again.
type holder struct {
	path    string
	command []string
	log     *slog.Logger

	mu   sync.Mutex
	c    *keeper.Client
	lost func() error
}

// connect dials the keeper, starting it first when it is not there.
func (h *holder) connect(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dial(ctx)
}

func (h *holder) dial(ctx context.Context) error {
	if c, err := keeper.Dial(ctx, h.path); err == nil {
		h.c = c
		return nil
	}
	if err := h.start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, keeperAnswers)
	defer cancel()
	for {
		c, err := keeper.Dial(ctx, h.path)
		if err == nil {
			h.c = c
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("start the keeper: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// start runs the keeper in a session of its own, so that no signal meant for
// the agent's reaches it. Nobody waits for it here but the reaper below: it
// normally outlives this process.
func (h *holder) start() error {
	cmd := exec.Command(h.command[0], append(append([]string(nil), h.command[1:]...), h.path)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/"
	// Until it has begun; then it lets go of this, as it outlives who reads it.
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the keeper: %w", err)
	}
	h.log.Info("started the keeper", "pid", cmd.Process.Pid)
	go func() {
		err := cmd.Wait()
		h.log.Warn("the keeper ended", "error", err, "said", strings.TrimSpace(said.String()))
	}()
	return nil
}

func (h *holder) onLost(f func() error) {
	h.mu.Lock()
	h.lost = f
	h.mu.Unlock()
}

func (h *holder) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.c != nil {
		_ = h.c.Close()
	}
}

func (h *holder) client() *keeper.Client {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.c
}

// watch looks at the keeper from time to time and replaces a dead one.
func (h *holder) watch(ctx context.Context, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if _, err := h.client().List(); err == nil {
			continue
		} else if ctx.Err() == nil {
			h.log.Error("the keeper does not answer: begin again", "error", err)
		}
		h.mu.Lock()
		_ = h.c.Close()
		err := h.dial(ctx)
		lost := h.lost
		h.mu.Unlock()
		if err == nil && lost != nil {
			err = lost()
		}
		if err != nil && ctx.Err() == nil {
			h.log.Error("begin again with a new keeper", "error", err)
		}
	}
}

// Put implements broker.Holder.
func (h *holder) Put(name string, fds ...int) error { return h.client().Put(name, fds...) }

// Get implements broker.Holder.
func (h *holder) Get(name string) ([]int, error) { return h.client().Get(name) }

// Delete implements broker.Holder.
func (h *holder) Delete(name string) error { return h.client().Delete(name) }

// List implements broker.Holder.
func (h *holder) List() ([]string, error) { return h.client().List() }
