package top

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tunmesh/tunmesh/api/tap"
)

func play(t *Table, stream uint64, direction, path string, status uint32, us uint64, change func(*tap.End)) {
	e := func() *tap.Event {
		return &tap.Event{
			Observer: "a/" + direction, Stream: stream, Direction: direction,
			Source: &tap.Peer{Ip: "10.0.0.1", Labels: map[string]string{"pod": "web-1"}}, Destination: &tap.Peer{Ip: "10.0.0.2"},
			Route: map[string]string{"kind": "default", "name": "http"},
		}
	}
	a, b, c := e(), e(), e()
	a.Phase = &tap.Event_Request{Request: &tap.Request{Method: "GET", Path: path}}
	b.Phase = &tap.Event_Response{Response: &tap.Response{Status: status}}
	end := &tap.End{SinceRequestUs: us}
	if change != nil {
		change(end)
	}
	c.Phase = &tap.Event_End{End: end}
	t.Add(a)
	if status > 0 {
		t.Add(b)
	}
	t.Add(c)
}

func show(rows []Row) (list []string) {
	for _, r := range rows {
		list = append(list, fmt.Sprintf("%s>%s %s %s %d %v %v %v %.2f", r.Source, r.Destination, r.Method, r.Path, r.Count, r.Best, r.Worst, r.Last, r.SuccessRate()))
	}
	return list
}

func TestTable(t *testing.T) {
	x := New(Options{})
	play(x, 1, "out", "/a", 200, 3000, nil)
	play(x, 1, "in", "/a", 200, 2000, nil) // the same, as the other side saw it
	play(x, 2, "out", "/a", 503, 1000, nil)
	play(x, 3, "out", "/a", 200, 2000, func(e *tap.End) { e.GrpcStatus = proto.Uint32(14) })
	play(x, 4, "out", "/a", 200, 2000, func(e *tap.End) { e.GrpcStatus = proto.Uint32(5) }) // not found: the client's mistake
	play(x, 5, "in", "/b", 0, 9000, nil)
	play(x, 6, "in", "/b", 200, 8000, func(e *tap.End) { e.Reset_ = proto.Uint32(0) })
	x.Add(&tap.Event{Stream: 77, Phase: &tap.Event_End{End: &tap.End{}}}) // began before
	want := []string{"web-1>10.0.0.2 GET /a 4 1ms 3ms 2ms 0.50", "web-1>10.0.0.2 GET /b 2 8ms 9ms 8ms 0.00"}
	if got := show(x.Rows(Count, false)); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%q", got)
	}
	for by, first := range map[Column]string{Count: "/a", Best: "/b", Worst: "/b", Last: "/b", Success: "/b", Path: "/a", Source: "/a", Method: "/a", Destination: "/a"} {
		if got := x.Rows(by, false)[0].Path; got != first {
			t.Errorf("by %d: %s first", by, got)
		}
	}
	if got := x.Rows(Count, true)[0].Path; got != "/b" {
		t.Errorf("reversed: %s first", got)
	}
	r := New(Options{Routes: true, HideSources: true})
	play(r, 1, "out", "/a", 200, int64us(time.Millisecond), nil)
	play(r, 2, "out", "/b", 200, int64us(time.Millisecond), nil)
	if got := show(r.Rows(Count, false)); fmt.Sprint(got) != "[>10.0.0.2  [DEFAULT] 2 1ms 1ms 1ms 1.00]" {
		t.Errorf("%q", got)
	}
}

func int64us(d time.Duration) uint64 { return uint64(d / time.Microsecond) }

// A table is bounded, and keeps what was seen last.
func TestTableIsBounded(t *testing.T) {
	x := New(Options{})
	for i := range maxRows + 5 {
		play(x, uint64(i), "out", fmt.Sprintf("/%d", i), 200, 1, nil)
	}
	rows := x.Rows(Path, false)
	if len(rows) != maxRows {
		t.Errorf("%d rows", len(rows))
	}
	for _, r := range rows {
		if r.Path == "/4" {
			t.Error("the oldest stayed")
		}
	}
	for i := range maxOpen + 3 {
		x.Add(&tap.Event{Stream: uint64(i), Phase: &tap.Event_Request{Request: &tap.Request{}}})
	}
	if x.Lost != 3 || len(x.open) != maxOpen {
		t.Errorf("%d lost, %d open", x.Lost, len(x.open))
	}
}
