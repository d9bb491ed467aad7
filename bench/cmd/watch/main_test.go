package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	query "github.com/tunmesh/tunmesh/api/query"
	tapapi "github.com/tunmesh/tunmesh/api/tap"

	"github.com/tunmesh/tunmesh/internal/transcript"
)

// said is what the program said so far.
type said struct{ transcript.Transcript }

func (s *said) await(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text := s.String()
		if strings.Contains(text, want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("it never said %q: %s", want, text)
		}
	}
}

// start runs the program until the test ends.
func start(t *testing.T, args ...string) *said {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	out, done := &said{}, make(chan struct{})
	go func() {
		defer close(done)
		_ = run(ctx, args, out) // it ends with ctx
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	return out
}

// plane is a control plane with two events and a loss.
type plane struct {
	query.UnimplementedQueryServer
	asked chan *query.TapRequest
}

func (p *plane) Tap(r *query.TapRequest, s query.Query_TapServer) error {
	p.asked <- r
	event := &query.TapMessage{Message: &query.TapMessage_Event{Event: &tapapi.Event{}}}
	for _, m := range []*query.TapMessage{{}, event, event, {Message: &query.TapMessage_Lost{Lost: 7}}} {
		if err := s.Send(m); err != nil {
			return err
		}
	}
	<-s.Context().Done()
	return nil
}

func TestTap(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{asked: make(chan *query.TapRequest, 1)}
	s := grpc.NewServer()
	query.RegisterQueryServer(s, p)
	go func() { _ = s.Serve(l) }()
	defer s.Stop()
	out := start(t, "tap", socket, "50", "shop/web")
	if r := <-p.asked; r.GetMaxRps() != 50 || r.GetResource().GetNamespace() != "shop" || r.GetResource().GetName() != "web" || r.GetMatch() != nil {
		t.Errorf("asked for %v", r)
	}
	out.await(t, "events=2 lost=7\n")
}

func TestSpans(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	out := start(t, "spans", addr)
	out.await(t, "exports=0 bytes=0\n")
	c := http.Client{Transport: &http.Transport{Protocols: new(http.Protocols)}, Timeout: 10 * time.Second}
	c.Transport.(*http.Transport).Protocols.SetUnencryptedHTTP2(true)
	defer c.CloseIdleConnections()
	var resp *http.Response
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		resp, err = c.Post("http://"+addr+"/opentelemetry.proto.collector.trace.v1.TraceService/Export", "application/grpc", strings.NewReader("123456789"))
		if err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(body, make([]byte, 5)) || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("%q, %v, %v", body, resp.Trailer, err)
	}
	out.await(t, "exports=1 bytes=9\n")
}

func TestWrong(t *testing.T) {
	for _, args := range [][]string{nil, {"tap"}, {"tap", "s", "many", "a/b"}, {"spans"}} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}
