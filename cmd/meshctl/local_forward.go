//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/tunmesh/tunmesh/cmd/meshctl/internal/ctl"
)

// maxForwarded bounds the connections of one port-forward.
const maxForwarded = 512

func (a *app) localForwardCommand() *cobra.Command {
	var namespace, address string
	c := &cobra.Command{
		Use:   "port-forward svc/NAME|POD|TYPE/NAME LOCAL:REMOTE",
		Short: "Relay a port of this machine to a port of a pod, until Ctrl-C",
		Long: `Relay a port of this machine to a port of a pod. A connection appears in the pod
as one from its own loopback; nothing is routed. For a Service the port is the
Service's, and each connection goes to a ready pod. LOCAL may be left out or 0:
the same port, or a free one.`,
		Example: "  sudo meshctl local port-forward svc/web -n emojivoto 8080:80",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			local, remote, err := portPair(args[1])
			if err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			d, err := forwardTarget(client, namespace, args[0], remote)
			if err != nil {
				return err
			}
			// A first connection, unused: a wrong name or port is told now and not
			// to whoever connects later.
			first, err := client.Dial(cmd.Context(), d)
			if err != nil {
				return fmt.Errorf("forward to %s port %d: %w", args[0], remote, err)
			}
			_ = first.Close()
			var lc net.ListenConfig
			l, err := lc.Listen(cmd.Context(), "tcp", net.JoinHostPort(address, strconv.Itoa(int(local))))
			if err != nil {
				return fmt.Errorf("forward: %w", err)
			}
			fmt.Fprintf(a.out, "Forwarding from %s to %s port %d\n", l.Addr(), args[0], remote)
			f := forwarder{client: client, to: d, errOut: a.err}
			return f.run(cmd.Context(), l)
		},
	}
	c.Flags().StringVarP(&namespace, "namespace", "n", "", "the pod's namespace (default: any), the Service's (default: default)")
	c.Flags().StringVar(&address, "address", "127.0.0.1", "address of this machine to listen on")
	return c
}

func portPair(s string) (local, remote uint16, err error) {
	l, r, pair := strings.Cut(s, ":")
	if !pair {
		r = l
	}
	if l == "" {
		l = "0"
	}
	ln, err1 := strconv.ParseUint(l, 10, 16)
	rn, err2 := strconv.ParseUint(r, 10, 16)
	if err1 != nil || err2 != nil || rn == 0 {
		return 0, 0, usage("%q: want LOCAL:REMOTE, two port numbers", s)
	}
	return uint16(ln), uint16(rn), nil
}

func forwardTarget(client ctl.Client, namespace, what string, port uint16) (ctl.Dial, error) {
	kind, name, named := strings.Cut(what, "/")
	if named && kinds()[strings.ToLower(kind)] == "service" {
		if namespace == "" {
			namespace = "default"
		}
		return ctl.Dial{Namespace: namespace, Service: name, Port: port}, nil
	}
	p, err := findPod(client.Dir, namespace, what)
	if err != nil {
		return ctl.Dial{}, err
	}
	return ctl.Dial{Namespace: p.Namespace, Pod: p.Name, Port: port}, nil
}

type forwarder struct {
	client ctl.Client
	to     ctl.Dial
	errOut io.Writer
}

// run relays until ctx ends; it takes l.
func (f *forwarder) run(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxForwarded)
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("forward: %w", err)
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			_ = c.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := f.relay(ctx, c.(*net.TCPConn)); err != nil && ctx.Err() == nil {
				fmt.Fprintln(f.errOut, "forward:", err)
			}
		})
	}
}

// relay copies both ways until both ends have ended; it takes c.
func (f *forwarder) relay(ctx context.Context, c *net.TCPConn) error {
	defer c.Close()
	file, err := f.client.Dial(ctx, f.to)
	if err != nil {
		_ = c.SetLinger(0) // a reset, as from a closed port
		if errors.Is(err, ctl.ErrDown) {
			return err
		}
		return fmt.Errorf("connect: %w", err)
	}
	far, err := fileConn(file)
	if err != nil {
		return err
	}
	defer far.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close(); _ = far.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { half(far, c) })
	half(c, far)
	wg.Wait()
	return nil
}

func fileConn(f *os.File) (*net.TCPConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	t, ok := c.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(errors.New("the holder sent no TCP connection"), c.Close())
	}
	return t, nil
}

// half copies one direction, and passes its end on.
func half(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = to.SetLinger(0)
		_ = to.Close()
		_ = from.Close()
		return
	}
	_ = to.CloseWrite()
}
