// Package top adds up what a tap shows: requests by who, whom and what, with
// their latencies and how many failed. It refuses to know where events come from
// and what the table looks like. A Table is used by one goroutine at a time.
package top

import (
	"cmp"
	"slices"
	"time"

	"github.com/tunmesh/tunmesh/api/tap"
)

const (
	// maxRows bounds the rows; the one seen longest ago gives way.
	maxRows = 2000
	// maxOpen bounds requests that have begun and not ended.
	maxOpen = 20000
)

// Key is what a row is about.
type Key struct {
	Source, Destination, Method, Path string
}

// Row is what is known of one.
type Row struct {
	Key
	Count, Succeeded  uint64
	Best, Worst, Last time.Duration
}

// SuccessRate is the share of requests that did not fail.
func (r Row) SuccessRate() float64 { return float64(r.Succeeded) / float64(max(r.Count, 1)) }

// Options choose what rows are told apart by.
type Options struct {
	Routes      bool // a route instead of method and path
	HideSources bool // whoever asked
}

// Table is the sum so far.
type Table struct {
	opt  Options
	rows map[Key]*sides
	open map[id]request
	turn uint64
	// Lost counts requests that had no room here.
	Lost uint64
}

// sides are what the client's sidecar saw of a row, and the server's. A tap of
// both sees each request twice; the fuller account is shown.
type sides struct {
	in, out Row
	seen    uint64
}

// id names a request among those of all sidecars.
type id struct {
	observer string
	base     uint32
	stream   uint64
}

type request struct {
	key      Key
	inbound  bool
	status   uint32
	answered bool
}

// New returns an empty table.
func New(o Options) *Table {
	return &Table{opt: o, rows: map[Key]*sides{}, open: map[id]request{}}
}

// Add adds an event.
func (t *Table) Add(e *tap.Event) {
	k := id{e.GetObserver(), e.GetBase(), e.GetStream()}
	switch p := e.GetPhase().(type) {
	case *tap.Event_Request:
		if len(t.open) >= maxOpen {
			t.Lost++
			return
		}
		t.open[k] = request{key: t.key(e, p.Request), inbound: e.GetDirection() == "in"}
	case *tap.Event_Response:
		if r, ok := t.open[k]; ok {
			r.status, r.answered = p.Response.GetStatus(), true
			t.open[k] = r
		}
	case *tap.Event_End:
		if r, ok := t.open[k]; ok {
			delete(t.open, k)
			t.end(r, p.End)
		}
	}
}

func (t *Table) key(e *tap.Event, r *tap.Request) Key {
	k := Key{Source: name(e.GetSource()), Destination: name(e.GetDestination()), Method: r.GetMethod(), Path: r.GetPath()}
	if t.opt.HideSources {
		k.Source = ""
	}
	if t.opt.Routes {
		k.Method, k.Path = "", cmp.Or(e.GetRoute()["route"], e.GetRoute()["name"], "[DEFAULT]")
		if e.GetRoute()["kind"] == "default" {
			k.Path = "[DEFAULT]"
		}
	}
	return k
}

// name is the pod's, or the address of somebody whom nobody knows.
func name(p *tap.Peer) string { return cmp.Or(p.GetLabels()["pod"], p.GetIp()) }

func (t *Table) end(r request, e *tap.End) {
	s := t.rows[r.key]
	if s == nil {
		if len(t.rows) >= maxRows {
			t.evict()
		}
		s = &sides{in: Row{Key: r.key}, out: Row{Key: r.key}}
		t.rows[r.key] = s
	}
	t.turn++
	s.seen = t.turn
	row := &s.out
	if r.inbound {
		row = &s.in
	}
	took := time.Duration(e.GetSinceRequestUs()) * time.Microsecond
	if row.Count == 0 || took < row.Best {
		row.Best = took
	}
	row.Worst, row.Last = max(row.Worst, took), took
	row.Count++
	if !failed(r, e) {
		row.Succeeded++
	}
}

func (t *Table) evict() {
	var oldest Key
	seen := t.turn + 1
	for k, s := range t.rows {
		if s.seen < seen {
			oldest, seen = k, s.seen
		}
	}
	delete(t.rows, oldest)
}

// failed is Linkerd's classification: a reset, a status of 500 or more, or a
// status of gRPC that blames the server.
func failed(r request, e *tap.End) bool {
	if e.Reset_ != nil || !r.answered || r.status >= 500 {
		return true
	}
	switch e.GetGrpcStatus() {
	case 2, 4, 13, 14, 15: // unknown, deadline exceeded, internal, unavailable, data loss
		return e.GrpcStatus != nil
	}
	return false
}

// Column is what rows are sorted by.
type Column int

// The columns, in the order in which they are shown.
const (
	Source Column = iota
	Destination
	Method
	Path
	Count
	Best
	Worst
	Last
	Success
)

// Rows lists the rows by a column, figures with the largest first (the success
// rate with the smallest), reversed or not.
func (t *Table) Rows(by Column, reverse bool) []Row {
	list := make([]Row, 0, len(t.rows))
	for _, s := range t.rows {
		if s.in.Count > s.out.Count {
			list = append(list, s.in)
		} else {
			list = append(list, s.out)
		}
	}
	slices.SortFunc(list, func(a, b Row) int {
		c := compare(a, b, by)
		if reverse {
			c = -c
		}
		return cmp.Or(c, compare(a, b, Count), compare(a, b, Source), compare(a, b, Destination), compare(a, b, Path), compare(a, b, Method))
	})
	return list
}

func compare(a, b Row, by Column) int {
	switch by {
	case Source:
		return cmp.Compare(a.Source, b.Source)
	case Destination:
		return cmp.Compare(a.Destination, b.Destination)
	case Method:
		return cmp.Compare(a.Method, b.Method)
	case Path:
		return cmp.Compare(a.Path, b.Path)
	case Best:
		return cmp.Compare(b.Best, a.Best)
	case Worst:
		return cmp.Compare(b.Worst, a.Worst)
	case Last:
		return cmp.Compare(b.Last, a.Last)
	case Success:
		return cmp.Compare(a.SuccessRate(), b.SuccessRate())
	}
	return cmp.Compare(b.Count, a.Count)
}
