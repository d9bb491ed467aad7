// Package cri asks a node's container runtime what runs on it, by the Container
// Runtime Interface (runtime.v1.RuntimeService). It owns the three calls that
// the node's agent needs, and refuses to know what the answers mean.
//
// The calls are made by hand, over net/http's HTTP/2: program start counts,
// because the agent's program is also the CNI plugin that is run for each pod,
// and linking gRPC and the interface's generated code would take a third longer
// and twice the memory. Tests hold this package against both.
package cri

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// maxAnswer bounds an answer, as gRPC's own default does.
const maxAnswer = 4 << 20

// idle connections of a runtime that was restarted are not kept for long.
const idleFor = time.Minute

// Client of a container runtime. Safe for concurrent use.
type Client struct{ http *http.Client }

// New makes a client of the runtime at a unix socket, with or without "unix://".
func New(socket string) *Client {
	path := strings.TrimPrefix(socket, "unix://")
	var http2 http.Protocols
	http2.SetUnencryptedHTTP2(true)
	return &Client{http: &http.Client{Transport: &http.Transport{
		Protocols: &http2, IdleConnTimeout: idleFor,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}}
}

// Close ends its idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// State of a container.
type State int

// States, with the interface's numbers.
const (
	Created State = iota
	Running
	Exited
	Unknown
)

// Container is one.
type Container struct {
	ID, Sandbox, Name string
	State             State
}

// Containers lists those of a sandbox (a pod's container id in CNI).
func (c *Client) Containers(ctx context.Context, sandbox string) ([]Container, error) {
	filter := message{}.text(3, sandbox)
	raw, err := c.call(ctx, "ListContainers", message{}.bytes(1, filter))
	if err != nil {
		return nil, err
	}
	var out []Container
	err = raw.each(func(n uint64, v value) error {
		if n != 1 {
			return nil
		}
		var one Container
		err := message(v.bytes).each(func(n uint64, v value) error {
			switch n {
			case 1:
				one.ID = string(v.bytes)
			case 2:
				one.Sandbox = string(v.bytes)
			case 3:
				return message(v.bytes).each(func(n uint64, v value) error {
					if n == 1 {
						one.Name = string(v.bytes)
					}
					return nil
				})
			case 6:
				one.State = State(v.number)
			}
			return nil
		})
		out = append(out, one)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("decode the runtime's list of containers: %w", err)
	}
	return out, nil
}

// ErrUntold: the runtime answered, and not with what is needed. Asking again may
// help after any other error, and not after this one.
var ErrUntold = errors.New("containerd or CRI-O is needed")

// PID is a running container's first process, in the node's PID namespace.
// containerd and CRI-O tell it when asked for details.
func (c *Client) PID(ctx context.Context, container string) (int, error) {
	raw, err := c.call(ctx, "ContainerStatus", message{}.text(1, container).number(2, 1))
	if err != nil {
		return 0, err
	}
	var info string
	err = raw.each(func(n uint64, v value) error {
		if n != 2 { // a map's entry
			return nil
		}
		var key, val string
		err := message(v.bytes).each(func(n uint64, v value) error {
			switch n {
			case 1:
				key = string(v.bytes)
			case 2:
				val = string(v.bytes)
			}
			return nil
		})
		if key == "info" {
			info = val
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("decode the runtime's status of container %s: %w", container, err)
	}
	var details struct{ PID int }
	if info != "" {
		if err := json.Unmarshal([]byte(info), &details); err != nil {
			return 0, fmt.Errorf("decode the runtime's details of container %s: %w", container, err)
		}
	}
	if details.PID <= 0 {
		return 0, fmt.Errorf("the runtime does not tell the process of container %s: %w", container, ErrUntold)
	}
	return details.PID, nil
}

// Version returns the runtime's name ("containerd", "cri-o") and version.
func (c *Client) Version(ctx context.Context) (name, version string, err error) {
	raw, err := c.call(ctx, "Version", nil)
	if err != nil {
		return "", "", err
	}
	err = raw.each(func(n uint64, v value) error {
		switch n {
		case 2:
			name = string(v.bytes)
		case 3:
			version = string(v.bytes)
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("decode the runtime's version: %w", err)
	}
	return name, version, err
}

// call is a unary call: one length-prefixed message each way, the outcome in
// the trailers.
func (c *Client) call(ctx context.Context, method string, ask message) (message, error) {
	raw, broken, err := c.try(ctx, method, ask)
	if broken && ctx.Err() == nil {
		// A connection that was kept may be one to a runtime before its restart. All
		// calls only ask: once more is as good.
		c.http.CloseIdleConnections()
		raw, _, err = c.try(ctx, method, ask)
	}
	if err != nil {
		return nil, fmt.Errorf("ask the container runtime (%s): %w", method, err)
	}
	return raw, nil
}

// try makes a call; broken says that the connection ended before the answer.
func (c *Client) try(ctx context.Context, method string, ask message) (answer message, broken bool, err error) {
	body := make([]byte, 5, 5+len(ask))
	binary.BigEndian.PutUint32(body[1:], uint32(len(ask)))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://runtime/runtime.v1.RuntimeService/"+method, bytes.NewReader(append(body, ask...)))
	if err != nil {
		return nil, false, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, true, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+6))
	if err != nil {
		return nil, true, err
	}
	raw, err = unwrap(resp, raw)
	return raw, false, err
}

func unwrap(resp *http.Response, raw []byte) ([]byte, error) {
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s", resp.Status)
	}
	word := func(key string) string { // the trailers may come as the headers, if there is nothing else
		if v := resp.Trailer.Get(key); v != "" {
			return v
		}
		return resp.Header.Get(key)
	}
	if code := word("Grpc-Status"); code != "0" {
		return nil, fmt.Errorf("code %q: %s", code, word("Grpc-Message"))
	}
	if len(raw) < 5 || raw[0] != 0 || len(raw) > maxAnswer+5 || int(binary.BigEndian.Uint32(raw[1:])) != len(raw)-5 {
		return nil, errors.New("the answer is not one plain message")
	}
	return raw[5:], nil
}
