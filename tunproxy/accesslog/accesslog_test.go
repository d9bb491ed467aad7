package accesslog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/tunmesh/tunmesh/internal/spiffe"
	"github.com/tunmesh/tunmesh/tunproxy/accesslog"
)

func entry() *accesslog.Entry {
	return &accesslog.Entry{
		Client: netip.MustParseAddrPort("10.42.0.63:51160"), ID: spiffe.ID{TrustDomain: "cluster.local", Namespace: "booksapp", ServiceAccount: "traffic"},
		Time:   time.Date(2026, 8, 23, 20, 28, 20, 71809491, time.UTC),
		Method: "GET", Scheme: "http", Authority: "webapp:7000", Path: "/books?a=b", Version: "HTTP/2.0",
		UserAgent: "curl/8", TraceID: "7f", Status: 200, RequestBytes: 3, ResponseBytes: 19_627,
		Head: 14 * time.Millisecond, Whole: 15 * time.Millisecond,
	}
}

func TestApache(t *testing.T) {
	e := entry()
	line := func() string { return string(accesslog.Apache.Append(nil, e)) }
	if got, want := line(), `10.42.0.63:51160 traffic.booksapp.sa.cluster.local - [2026-08-23T20:28:20.071809491Z] "GET http://webapp:7000/books?a=b HTTP/2.0" 200`+"\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	e.ID, e.Status, e.Method, e.Path = spiffe.ID{}, 0, "OPTIONS", "*"
	if got := line(); !strings.Contains(got, "51160 - - [") || !strings.HasSuffix(got, "\"OPTIONS * HTTP/2.0\" -\n") {
		t.Errorf("%q", got)
	}
	e.Method, e.Path = "CONNECT", ""
	if got := line(); !strings.Contains(got, `"CONNECT webapp:7000 HTTP/2.0"`) {
		t.Errorf("%q", got)
	}
	e.Path = "/a\" 200\n10.0.0.1 \x00\\é"
	if got := line(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `/a\" 200\x0a10.0.0.1 \x00\\\xc3\xa9 HTTP`) {
		t.Errorf("%q", got)
	}
}

func TestJSON(t *testing.T) {
	e := entry()
	e.UserAgent = "a\"b\\c\n\x7f\xffé"
	var got map[string]any
	raw := accesslog.JSON.Append(nil, e)
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	want := map[string]any{
		"client.addr": "10.42.0.63:51160", "client.id": "traffic.booksapp.sa.cluster.local", "timestamp": "2026-08-23T20:28:20.071809491Z",
		"method": "GET", "uri": "http://webapp:7000/books?a=b", "version": "HTTP/2.0", "trace_id": "7f", "request_bytes": "3", "status": 200.0,
		"response_bytes": "19627", "total_ns": "14000000", "duration_ns": "15000000", "user_agent": "a\"b\\c\n\x7f\ufffdé", "host": "webapp:7000",
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s is %v, want %v", k, got[k], v)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d fields, want %d: %s", len(got), len(want), raw)
	}
	e.Status = 0
	got = nil
	if err := json.Unmarshal(accesslog.JSON.Append(nil, e), &got); err != nil || got["status"] != nil || got["total_ns"] != nil {
		t.Errorf("without a response: %v, %v", got, err)
	}
}

func FuzzLine(f *testing.F) {
	f.Add("GET", "a:1", "/x", "agent")
	f.Add("", "\"", "\n", "\xff\\")
	f.Fuzz(func(t *testing.T, method, authority, path, agent string) {
		e := entry()
		e.Method, e.Authority, e.Path, e.UserAgent = method, authority, path, agent
		raw := accesslog.JSON.Append(nil, e)
		var got map[string]any
		if err := json.Unmarshal(raw, &got); err != nil || bytes.IndexByte(raw, '\n') != len(raw)-1 {
			t.Fatalf("%q: %v", raw, err)
		}
		if utf8.ValidString(agent) && len(agent) <= 2048 && got["user_agent"] != agent {
			t.Fatalf("%q became %q", agent, got["user_agent"])
		}
		raw = accesslog.Apache.Append(nil, e)
		if bytes.IndexByte(raw, '\n') != len(raw)-1 || len(raw) > 40_000 {
			t.Fatalf("%q", raw)
		}
	})
}

func TestParseFormat(t *testing.T) {
	for s, want := range map[string]accesslog.Format{"": accesslog.Off, "apache": accesslog.Apache, "json": accesslog.JSON} {
		if f, err := accesslog.ParseFormat(s); f != want || err != nil {
			t.Errorf("%q: %v, %v", s, f, err)
		}
	}
	if _, err := accesslog.ParseFormat("JSON"); err == nil || !strings.Contains(err.Error(), "apache or json") {
		t.Errorf("%v", err)
	}
}

// file is one that can stand still.
type file struct {
	mu   sync.Mutex
	hold chan struct{} // closed to go on; nil: at once
	fail bool
	b    bytes.Buffer
	n    int
}

func (f *file) Write(p []byte) (int, error) {
	if f.hold != nil {
		<-f.hold
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail {
		return 0, errors.New("no room")
	}
	f.n++
	return f.b.Write(p)
}

func TestLinesAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &file{}
		l := accesslog.New(accesslog.Apache, f)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); l.Run(ctx) }()
		for range 3 {
			for range 100 {
				l.Add(entry())
			}
			time.Sleep(time.Second)
		}
		l.Add(entry())
		cancel()
		<-done
		if got := strings.Count(f.b.String(), "\n"); got != 301 || f.n > 4 || l.Dropped() != 0 {
			t.Errorf("%d lines in %d writes, %d dropped", got, f.n, l.Dropped())
		}
	})
}

// TestAFileThatStandsStill keeps nobody waiting, and costs a bounded amount of memory.
func TestAFileThatStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &file{hold: make(chan struct{})}
		l := accesslog.New(accesslog.JSON, f)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); l.Run(ctx) }()
		const lines = 10_000
		for range lines {
			l.Add(entry())
			time.Sleep(time.Millisecond)
		}
		dropped := l.Dropped()
		if dropped == 0 || dropped > lines-500 {
			t.Errorf("%d of %d dropped", dropped, lines)
		}
		began := time.Now()
		cancel()
		<-done // though the write has not returned
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("the end took %v", d)
		}
		close(f.hold)
		synctest.Wait()
		if got := uint64(strings.Count(f.b.String(), "\n")); got+dropped != lines {
			t.Errorf("%d written and %d dropped of %d", got, dropped, lines)
		}
	})
}

func TestAFileThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := accesslog.New(accesslog.JSON, &file{fail: true})
		ctx, cancel := context.WithCancel(t.Context())
		for range 7 {
			l.Add(entry())
		}
		cancel()
		l.Run(ctx)
		if l.Dropped() != 7 {
			t.Errorf("%d dropped", l.Dropped())
		}
	})
}

func TestAddAllocatesNothing(t *testing.T) {
	for _, f := range []accesslog.Format{accesslog.Apache, accesslog.JSON} {
		e, b := entry(), make([]byte, 0, 4096)
		if n := testing.AllocsPerRun(100, func() { b = f.Append(b[:0], e) }); n > 0 {
			t.Errorf("format %d: %v allocations", f, n)
		}
	}
}
