package supervise

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Serve takes commands at a unix socket until ctx ends.
func (s *Supervisor) Serve(ctx context.Context, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) { // of the machine's last life
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /processes", s.serveStatuses)
	mux.HandleFunc("POST /{op}/{name}", s.serveDo)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *Supervisor) serveStatuses(w http.ResponseWriter, _ *http.Request) {
	_ = json.NewEncoder(w).Encode(s.Statuses()) // the client hears of it
}

func (s *Supervisor) serveDo(w http.ResponseWriter, r *http.Request) {
	if err := s.Do(r.Context(), r.PathValue("op"), r.PathValue("name")); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
	}
}

// Client speaks to a Supervisor at its socket.
type Client struct{ Path string }

func (c Client) call(ctx context.Context, method, path string) ([]byte, error) {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", c.Path)
		},
		DisableKeepAlives: true,
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://supervisor"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(string(bytes.TrimSpace(body)))
	}
	return body, nil
}

// Do carries out a command; see Supervisor.Do.
func (c Client) Do(ctx context.Context, op, name string) error {
	if _, err := c.call(ctx, http.MethodPost, "/"+op+"/"+name); err != nil {
		return fmt.Errorf("%s %s: %w", op, name, err)
	}
	return nil
}

// Statuses lists the processes.
func (c Client) Statuses(ctx context.Context) ([]Status, error) {
	raw, err := c.call(ctx, http.MethodGet, "/processes")
	if err != nil {
		return nil, fmt.Errorf("ask for processes: %w", err)
	}
	var out []Status
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fmt.Errorf("ask for processes: %w", err)
	}
	return out, nil
}

// PID is the supervisor's, as the caller's pid namespace sees it: the kernel
// says who listens.
func (c Client) PID(ctx context.Context) (int, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.Path)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if cerr != nil {
		return 0, fmt.Errorf("ask who listens at %s: %w", c.Path, cerr)
	}
	return int(cred.Pid), nil
}
