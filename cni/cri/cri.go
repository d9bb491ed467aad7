// Package cri asks a node's container runtime what runs on it, by the Container
// Runtime Interface (runtime.v1.RuntimeService). It owns the three calls that
// the node's agent needs, and refuses to know what the answers mean.
//
// The calls are made by hand (package unary): linking gRPC and the interface's
// generated code would cost each pod's start time and memory. Tests hold this
// package against both.
package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/cni/unary"
)

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
	filter := unary.Message{}.Text(3, sandbox)
	raw, err := c.call(ctx, "ListContainers", unary.Message{}.Bytes(1, filter))
	if err != nil {
		return nil, err
	}
	var out []Container
	err = raw.Each(func(n uint64, v unary.Value) error {
		if n != 1 {
			return nil
		}
		var one Container
		err := unary.Message(v.Bytes).Each(func(n uint64, v unary.Value) error {
			switch n {
			case 1:
				one.ID = string(v.Bytes)
			case 2:
				one.Sandbox = string(v.Bytes)
			case 3:
				return unary.Message(v.Bytes).Each(func(n uint64, v unary.Value) error {
					if n == 1 {
						one.Name = string(v.Bytes)
					}
					return nil
				})
			case 6:
				one.State = State(v.Number)
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
	raw, err := c.call(ctx, "ContainerStatus", unary.Message{}.Text(1, container).Number(2, 1))
	if err != nil {
		return 0, err
	}
	var info string
	err = raw.Each(func(n uint64, v unary.Value) error {
		if n != 2 { // a map's entry
			return nil
		}
		var key, val string
		err := unary.Message(v.Bytes).Each(func(n uint64, v unary.Value) error {
			switch n {
			case 1:
				key = string(v.Bytes)
			case 2:
				val = string(v.Bytes)
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
	err = raw.Each(func(n uint64, v unary.Value) error {
		switch n {
		case 2:
			name = string(v.Bytes)
		case 3:
			version = string(v.Bytes)
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("decode the runtime's version: %w", err)
	}
	return name, version, err
}

// call makes one, and once more where a connection has ended.
func (c *Client) call(ctx context.Context, method string, ask unary.Message) (unary.Message, error) {
	const service = "http://runtime/runtime.v1.RuntimeService/"
	raw, broken, err := unary.Call(ctx, c.http, service+method, ask)
	if broken && ctx.Err() == nil {
		// A connection that was kept may be one to a runtime before its restart. All
		// calls only ask: once more is as good.
		c.http.CloseIdleConnections()
		raw, _, err = unary.Call(ctx, c.http, service+method, ask)
	}
	if err != nil {
		return nil, fmt.Errorf("ask the container runtime (%s): %w", method, err)
	}
	return raw, nil
}
