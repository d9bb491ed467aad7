package netstack

import "net/netip"

// places bounds the connections that clients of one side have opened: those
// that wait for an answer, and those that live until their last FIN; and, among
// them, those whose handshake is not over.
//
// On the wire side no client may hold more of them than are free. Alone it gets
// half, two get a third each, and whoever comes next always finds some, whatever
// the others do: no bound for each client needs to be chosen. The app side has
// one client, the pod.
type places struct {
	max  int
	fair bool
	used int
	by   map[netip.Addr]int // when fair
}

func newPlaces(limit int, fair bool) places {
	return places{max: limit, fair: fair, by: map[netip.Addr]int{}}
}

// taken is the answer to a client that asks for a place.
type taken uint8

const (
	placed      taken = iota
	sideFull          // there is none
	clientsFull       // this client holds as many as are free
)

func (p *places) take(client netip.Addr) taken {
	switch {
	case p.used >= p.max:
		return sideFull
	case p.fair && p.by[client] >= p.max-p.used:
		return clientsFull
	}
	p.used++
	if p.fair {
		p.by[client]++
	}
	return placed
}

func (p *places) give(client netip.Addr) {
	p.used--
	if !p.fair {
		return
	}
	if p.by[client]--; p.by[client] == 0 {
		delete(p.by, client)
	}
}
