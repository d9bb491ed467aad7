package endurance_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunmesh/tunmesh/test/meshtest"
)

// onNode is a client whose connections begin on the mesh's node.
func onNode(t *testing.T, m *meshtest.Mesh) *http.Client {
	t.Helper()
	holder, err := m.HolderPID()
	if err != nil {
		t.Fatal(err)
	}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		type result struct {
			c   net.Conn
			err error
		}
		done := make(chan result, 1)
		go func() { // the thread is spoiled and ends with the goroutine
			runtime.LockOSThread()
			c, err := dialIn(ctx, fmt.Sprintf("/proc/%d/ns/net", holder), network, addr)
			done <- result{c, err}
		}()
		r := <-done
		return r.c, r.err
	}
	tr := &http.Transport{DialContext: dial}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

func dialIn(ctx context.Context, ns, network, addr string) (net.Conn, error) {
	f, err := os.Open(ns)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter %s: %w", ns, err)
	}
	return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, addr)
}

// metrics is the page of the sidecar at ip.
func metrics(c *http.Client, ip string) (string, error) {
	resp, err := c.Get("http://" + net.JoinHostPort(ip, "4191") + "/metrics")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("metrics of %s: %s", ip, resp.Status)
	}
	return string(b), err
}

// each calls f with the labels and the value of every sample of a family whose
// labels have all parts.
func each(page, family string, f func(labels string, v float64), parts ...string) {
lines:
	for line := range strings.Lines(page) {
		rest, ok := strings.CutPrefix(line, family)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		i := strings.LastIndexByte(rest, ' ')
		for _, p := range parts {
			if !strings.Contains(rest[:i], p) {
				continue lines
			}
		}
		if v, err := strconv.ParseFloat(strings.TrimSpace(rest[i:]), 64); err == nil {
			f(rest[:i], v)
		}
	}
}

// sum adds up the samples of a family whose labels have all parts.
func sum(page, family string, parts ...string) (total int64) {
	each(page, family, func(_ string, v float64) { total += int64(v) }, parts...)
	return total
}

// label is the value of one of a sample's labels.
func label(labels, name string) string {
	_, rest, ok := strings.Cut(labels, name+`="`)
	if !ok {
		return ""
	}
	v, _, _ := strings.Cut(rest, `"`)
	return v
}
