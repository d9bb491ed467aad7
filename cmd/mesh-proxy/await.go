package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/internal/annotation"
)

// How a waiting process asks: often at first, as a sidecar is ready in a tenth of a
// second, then less.
const (
	askFirst = 10 * time.Millisecond
	askMost  = 250 * time.Millisecond
	askLimit = 2 * time.Second // for one answer
	askBytes = 4 << 10
	// awaitTimeout is when a sidecar that does not become ready is started again.
	awaitTimeout = 2 * time.Minute
)

// loopback are the addresses of the admin port inside the pod.
func loopback() []string {
	port := strconv.Itoa(annotation.AdminPort)
	return []string{net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("::1", port)}
}

func parseAwait(args []string, errs io.Writer) (timeout time.Duration, err error) {
	f := flag.NewFlagSet("mesh-proxy await", flag.ContinueOnError)
	f.SetOutput(errs)
	f.Usage = func() {
		fmt.Fprintln(errs, "mesh-proxy await returns when the sidecar of this pod is ready. The kubelet runs it")
		fmt.Fprintln(errs, "as the sidecar's postStart hook, so that what starts next finds a network.")
		fmt.Fprintln(errs, "\nFlags:")
		f.PrintDefaults()
	}
	f.DurationVar(&timeout, "timeout", awaitTimeout, "give up after this `duration`")
	if err := f.Parse(args); err != nil {
		return 0, err
	}
	if f.NArg() > 0 {
		return 0, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if timeout <= 0 {
		return 0, fmt.Errorf("timeout %v: want more than zero", timeout)
	}
	return timeout, nil
}

// await returns nil once the sidecar at one of the addresses says that it is ready,
// and after timeout the last reason why not.
func await(ctx context.Context, timeout time.Duration, addresses []string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for pause := askFirst; ; pause = min(2*pause, askMost) {
		var why error
		for _, a := range addresses {
			err := ask(ctx, a)
			if err == nil {
				return nil
			}
			if why == nil || !errors.As(err, new(*net.OpError)) { // an answer says more
				why = err
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("the sidecar is not ready after %v: %w", timeout, why)
		}
	}
}

// ask is one GET of /ready.
func ask(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := fmt.Fprintf(c, "GET /ready HTTP/1.1\r\nhost: %s\r\n\r\n", address); err != nil {
		return err
	}
	return readReady(c)
}

// readReady reads the answer: nil for 200, else its body as an error.
func readReady(r io.Reader) error {
	br := bufio.NewReader(io.LimitReader(r, askBytes))
	line, err := br.ReadString('\n')
	if err != nil {
		return fmt.Errorf("read the answer of the admin port: %w", err)
	}
	_, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	status, _, _ := strings.Cut(rest, " ")
	if status == "200" {
		return nil
	}
	for line = "x"; strings.TrimSpace(line) != ""; {
		if line, err = br.ReadString('\n'); err != nil {
			return fmt.Errorf("the admin port answered %q", rest)
		}
	}
	body, err := io.ReadAll(br)
	if why := strings.TrimSpace(string(body)); err == nil && why != "" {
		return errors.New(why)
	}
	return fmt.Errorf("the admin port answered %q", rest)
}
