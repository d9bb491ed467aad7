package main

import (
	"bytes"
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func execute(ctx context.Context, out io.Writer, args ...string) error {
	cmd := command(io.Discard)
	cmd.SetArgs(args)
	cmd.SetOut(out)
	cmd.SetErr(out)
	return cmd.ExecuteContext(ctx)
}

func TestFlagErrors(t *testing.T) {
	dir := t.TempDir()
	base := []string{"--dir", dir, "--state-dir", filepath.Join(dir, "state"), "--listen", "127.0.0.1:0", "--admin-listen", ""}
	for want, args := range map[string][]string{
		"no folder of manifests":   {"--state-dir", dir},
		"no state folder":          {"--dir", dir},
		`--source "etcd"`:          append([]string{"--source", "etcd"}, base...),
		"leave them out with kube": append([]string{"--source", "kube"}, base...),
		"the Kubernetes client":    {"--source", "kube", "--kubeconfig", filepath.Join(dir, "none")},
		"--default-inbound-policy": append([]string{"--default-inbound-policy", "allow"}, base...),
		"--mesh-networks":          append([]string{"--mesh-networks", "10"}, base...),
		"--host-addresses":         append([]string{"--host-addresses", "10.0.0.0/8"}, base...),
		"--trace-collector":        append([]string{"--trace-collector", "http://a"}, base...),
		"--trace-sampling":         append([]string{"--trace-sampling", "2"}, base...),
		"for --source=kube":        append([]string{"--trace-sampling", "1"}, base...),
		"--cluster-networks":       append([]string{"--cluster-networks", "x"}, base...),
		`--log-level "loud"`:       append([]string{"--log-level", "loud"}, base...),
		`--log-format "xml"`:       append([]string{"--log-format", "xml"}, base...),
		"unknown command":          append([]string{"serve"}, base...),
		"unknown flag":             append([]string{"--nope"}, base...),
	} {
		if err := execute(t.Context(), io.Discard, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
}

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	if err := execute(t.Context(), &out, "--version"); err != nil || !strings.HasPrefix(out.String(), "mesh-control version ") {
		t.Errorf("%q, %v", out.String(), err)
	}
}

// TestStopsCleanly: the end of the context, which a SIGTERM is, is no error.
func TestStopsCleanly(t *testing.T) {
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- execute(ctx, io.Discard, "--dir", dir, "--state-dir", filepath.Join(dir, "state"), "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	}()
	time.Sleep(200 * time.Millisecond)
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("still runs 5 s after its context ended")
	}
}
