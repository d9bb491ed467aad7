package tunproxy

import (
	"context"
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
)

const (
	// MaxListed bounds a list of connections.
	MaxListed = 1000
	// listWait bounds how long a loop may take to say what it has.
	listWait = 2 * time.Second
)

// listed is a connection as its loop saw it.
type listed struct {
	direction     string
	protocol      string
	local, remote netip.AddrPort
	age           time.Duration
	stats         aio.Stats
	m             telemetry.TCP
}

// Connections lists connections with peers outside of the pod as they are now, at
// most limit (0: MaxListed), and says how many there are. Of more, it is no matter
// of order which are listed. It is not called on a loop; a loop that has no time
// for it before ctx ends is left out.
//
// It is what a console shows: nothing is kept for it but when each began, and
// nothing is asked of a connection before somebody looks.
func (p *Proxy) Connections(ctx context.Context, limit int) (all []wire.Connection, total int) {
	if limit <= 0 || limit > MaxListed {
		limit = MaxListed
	}
	ctx, cancel := context.WithTimeout(ctx, listWait)
	defer cancel()
	type part struct {
		list  []listed
		total int
	}
	parts := make(chan part, len(p.workers))
	asked := 0
	for _, w := range p.workers {
		if w.loop.Post(func() {
			list, n := w.list(limit)
			parts <- part{list, n}
		}) {
			asked++
		}
	}
	for range asked {
		select {
		case l := <-parts:
			total += l.total
			for i := range l.list {
				if len(all) < limit {
					all = append(all, l.list[i].wire())
				}
			}
		case <-ctx.Done():
			return all, total
		}
	}
	return all, total
}

// list looks at the loop's connections.
func (w *worker) list(limit int) (list []listed, total int) {
	now := w.loop.Now()
	for _, t := range w.tracked {
		if t.near {
			continue
		}
		if total++; len(list) < limit {
			list = append(list, listed{
				direction: t.direction.String(), protocol: t.protocol.String(),
				local: t.c.Local(), remote: t.c.Remote(), age: now - t.born, stats: t.c.Stats(), m: t.m,
			})
		}
	}
	return list, total
}

func (l *listed) wire() wire.Connection {
	s := &l.stats
	return wire.Connection{
		Direction: l.direction, Protocol: l.protocol, Local: l.local.String(), Remote: l.remote.String(),
		AgeUS: micros(l.age), BytesIn: s.BytesIn, BytesOut: s.BytesOut, RTTUS: micros(s.RTT),
		Retransmits: s.Retransmits, Timeouts: s.Timeouts, OutOfOrder: s.OutOfOrder, ZeroWindows: s.ZeroWindows,
		Dropped: s.DroppedMemory + s.DroppedQueue, Labels: l.m.Labels(),
	}
}

func micros(d time.Duration) uint64 { return uint64(max(0, d/time.Microsecond)) }

// listing is the list as /connections prints it.
type listing struct {
	Connections []listedJSON `json:"connections"`
	// Total is how many there are, listed or not.
	Total int `json:"total"`
}

type listedJSON struct {
	Direction   string            `json:"direction"`
	Protocol    string            `json:"protocol"`
	Local       string            `json:"local"`
	Remote      string            `json:"remote"`
	Age         float64           `json:"ageSeconds"`
	BytesIn     uint64            `json:"bytesIn"`
	BytesOut    uint64            `json:"bytesOut"`
	RTT         float64           `json:"rttSeconds"`
	Retransmits uint64            `json:"retransmits"`
	Timeouts    uint64            `json:"timeouts"`
	OutOfOrder  uint64            `json:"outOfOrder"`
	ZeroWindows uint64            `json:"zeroWindows"`
	Dropped     uint64            `json:"dropped"`
	Labels      map[string]string `json:"labels"`
}

// printConnections answers /connections?limit=N.
func (a *admin) printConnections(q question) reply {
	limit, err := 0, error(nil)
	if q.Query != "" {
		limit, err = strconv.Atoi(strings.TrimPrefix(q.Query, "limit="))
	}
	if err != nil || limit < 0 || limit > MaxListed {
		return text(400, "want limit=N, N up to %d", MaxListed)
	}
	all, total := a.connections(context.Background(), limit)
	l := listing{Connections: make([]listedJSON, 0, len(all)), Total: total}
	for i := range all {
		c := &all[i]
		l.Connections = append(l.Connections, listedJSON{
			c.Direction, c.Protocol, c.Local, c.Remote, float64(c.AgeUS) / 1e6, c.BytesIn, c.BytesOut, float64(c.RTTUS) / 1e6,
			c.Retransmits, c.Timeouts, c.OutOfOrder, c.ZeroWindows, c.Dropped, c.Labels,
		})
	}
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return text(500, "print connections: %v", err)
	}
	return reply{Status: 200, Type: "application/json", Body: append(b, '\n')}
}
