package mtls

import (
	"container/list"
	"crypto/tls"
	"sync"
)

// sessions keeps one session ticket per endpoint and server name, the least
// recently used one leaving first. A ticket is worth something only to the
// sidecar that issued it, so the endpoint's address is part of the key:
// endpoints of one service account share their server name.
type sessions struct {
	max int
	mu  sync.Mutex
	by  map[sessionKey]*list.Element
	lru list.List // of *sessionEntry, most recent first
}

type sessionKey struct{ endpoint, name string }

type sessionEntry struct {
	key   sessionKey
	state *tls.ClientSessionState
}

func newSessions(limit int) *sessions {
	return &sessions{max: limit, by: map[sessionKey]*list.Element{}}
}

// sessionsOf is the cache as one connection's tls.Config sees it.
type sessionsOf struct {
	cache    *sessions
	endpoint string
}

// Get implements tls.ClientSessionCache.
func (s sessionsOf) Get(name string) (*tls.ClientSessionState, bool) {
	c := s.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.by[sessionKey{s.endpoint, name}]
	if !ok {
		return nil, false
	}
	c.lru.MoveToFront(e)
	return e.Value.(*sessionEntry).state, true
}

// Put implements tls.ClientSessionCache; a nil state forgets.
func (s sessionsOf) Put(name string, state *tls.ClientSessionState) {
	c := s.cache
	key := sessionKey{s.endpoint, name}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.by[key]
	switch {
	case state == nil && ok:
		c.lru.Remove(e)
		delete(c.by, key)
	case state == nil:
	case ok:
		e.Value.(*sessionEntry).state = state
		c.lru.MoveToFront(e)
	default:
		if len(c.by) >= c.max {
			last := c.lru.Back()
			delete(c.by, c.lru.Remove(last).(*sessionEntry).key)
		}
		c.by[key] = c.lru.PushFront(&sessionEntry{key, state})
	}
}

var _ tls.ClientSessionCache = sessionsOf{}
