package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// answering listens and gives each client the next answer; the last one again and
// again.
func answering(t *testing.T, answers ...string) (address string, asked *atomic.Int32) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	asked = new(atomic.Int32)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			i := min(int(asked.Add(1)), len(answers)) - 1
			_, _ = c.Read(make([]byte, 1024))
			_, _ = io.WriteString(c, answers[i])
			_ = c.Close()
		}
	}()
	return l.Addr().String(), asked
}

// nobody is an address where connections are refused.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	return l.Addr().String()
}

const (
	ready    = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n"
	notReady = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 26\r\n\r\nnot ready: no certificate\n"
)

func TestAwait(t *testing.T) {
	address, asked := answering(t, notReady, notReady, ready)
	if err := await(t.Context(), time.Minute, []string{nobody(t), address}); err != nil || asked.Load() != 3 {
		t.Errorf("%v, asked %d times", err, asked.Load())
	}
	for _, tt := range []struct {
		name, want string
		addresses  []string
	}{
		{"not ready", "no certificate", []string{nobody(t), first(answering(t, notReady)), nobody(t)}},
		{"nobody there", "refused", []string{nobody(t)}},
		{"says nothing", "read the answer", []string{first(answering(t, ""))}},
		{"no reason", `"500 Oh"`, []string{first(answering(t, "HTTP/1.1 500 Oh\r\n\r\n"))}},
		{"half a head", `"503"`, []string{first(answering(t, "HTTP/1.1 503\r\na: b\r\n"))}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := await(t.Context(), 300*time.Millisecond, tt.addresses)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "not ready after 300ms") {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func first(s string, _ *atomic.Int32) string { return s }

// TestReadReadyIsBounded: an answer without an end is not read for ever.
func TestReadReadyIsBounded(t *testing.T) {
	err := readReady(io.MultiReader(strings.NewReader("HTTP/1.1 503 x\r\n"), bytes.NewReader(bytes.Repeat([]byte("a: b\r\n"), 10_000))))
	if err == nil || !strings.Contains(err.Error(), "503 x") {
		t.Error(err)
	}
}

func TestAwaitUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--help"}, 0, "postStart"},
		{[]string{"stray"}, exitUsage, "unexpected argument"},
		{[]string{"--timeout", "0s"}, exitUsage, "more than zero"},
		{[]string{"--timeout", "soon"}, exitUsage, "invalid value"},
	} {
		var b bytes.Buffer
		if code := run(append([]string{"await"}, c.args...), &b, &b); code != c.code || !strings.Contains(b.String(), c.want) {
			t.Errorf("%q: exit %d, %q", c.args, code, b.String())
		}
	}
	if got := fmt.Sprint(loopback()); got != "[127.0.0.1:4191 [::1]:4191]" {
		t.Error(got)
	}
}
