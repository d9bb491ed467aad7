package netstack

import (
	"github.com/tunmesh/tunmesh/internal/aio"
	"github.com/tunmesh/tunmesh/netstack/tun"
)

const (
	// postLimit bounds functions that wait for the loop.
	postLimit = 1 << 16
	// inboxLimit bounds packets that other loops read for this one.
	inboxLimit = 1024
)

// foreign is a packet of this loop's that another loop read.
type foreign struct {
	side aio.Side
	h    tun.Header
	b    []byte
}

// halt makes the loop end; from any goroutine.
func (l *loop) halt() {
	l.halted.Store(true)
	l.mu.Lock()
	wake := l.wakeLocked()
	l.mu.Unlock()
	if wake {
		l.signal()
	}
}

func (l *loop) takeMail() {
	l.mu.Lock()
	posted, inbox := l.posted, l.inbox
	l.posted, l.inbox = nil, nil
	l.mail.Store(false)
	l.mu.Unlock()
	if l.ending {
		inbox = nil // a SYN would begin a connection that nobody ends
	}
	for _, p := range inbox {
		l.links[p.side].Load(p.h, p.b)
		l.input(p.side, true)
	}
	for _, f := range posted {
		f()
	}
}

// Post implements aio.Loop. It also refuses when 65,536 functions wait.
func (l *loop) Post(f func()) bool {
	l.mu.Lock()
	if l.ended || len(l.posted) >= postLimit {
		l.mu.Unlock()
		return false
	}
	l.posted = append(l.posted, f)
	l.mail.Store(true)
	wake := l.wakeLocked()
	l.mu.Unlock()
	if wake {
		l.signal()
	}
	return true
}

// give puts a packet into the loop's inbox, from another loop.
func (l *loop) give(p foreign) bool {
	l.mu.Lock()
	if l.ended || len(l.inbox) >= inboxLimit {
		l.mu.Unlock()
		return false
	}
	l.inbox = append(l.inbox, p)
	l.mail.Store(true)
	wake := l.wakeLocked()
	l.mu.Unlock()
	if wake {
		l.signal()
	}
	return true
}
