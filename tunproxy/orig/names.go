package orig

import (
	"slices"
	"strings"

	"github.com/tunmesh/tunmesh/tunproxy/message"
)

const (
	// maxCached bounds each table, in entries: a mesh's messages have a few dozen
	// names and values, a hostile peer's any number.
	maxCached = 512
	// maxCachedLen bounds an entry, in bytes.
	maxCachedLen = 256
)

// Names remembers spellings and hop fields, so that the usual ones cost no
// allocation. It belongs to one event loop.
type Names struct {
	titles  map[string]string
	values  map[string]string
	scratch []byte
}

// NewNames makes an empty memory.
func NewNames() *Names {
	return &Names{titles: map[string]string{}, values: map[string]string{}}
}

// value is the hop field of h.
func (n *Names) value(o *original, h *message.Head) string {
	n.scratch = o.append(n.scratch[:0], h)
	return remember(n.values, n.scratch, n.scratch)
}

// title is a lower-case name spelled like Content-Type.
func (n *Names) title(name string) string {
	if t, ok := n.titles[name]; ok {
		return t
	}
	b := append(n.scratch[:0], name...)
	n.scratch = b
	start := true
	for i, c := range b {
		if start && 'a' <= c && c <= 'z' {
			b[i] = c - 0x20
		}
		start = c == '-'
	}
	return remember(n.titles, []byte(name), b)
}

// remember returns v as a string, the same one the next time for the same key.
func remember(m map[string]string, key, v []byte) string {
	if s, ok := m[string(key)]; ok {
		return s
	}
	s := string(v)
	if len(m) < maxCached && len(key) <= maxCachedLen {
		m[strings.Clone(string(key))] = s
	}
	return s
}

// restore undoes Pack.
func (n *Names) restore(o *original, h *message.Head) {
	h.Version = message.HTTP11
	if o.version10 {
		h.Version = message.HTTP10
	}
	if h.Status != 0 {
		h.Reason = phrase(h.Status)
		if o.hasReason {
			h.Reason = o.reason
		}
	} else if o.absolute {
		h.Form = message.Absolute
	}
	o.restorePlaces(h)
	rest := o.names
	for i := range h.Fields {
		f := &h.Fields[i]
		if rest != "" {
			if name, after, ok := find(rest, f.Name); ok {
				f.Name, rest = name, after
				continue
			}
		}
		if !o.lower {
			f.Name = n.title(f.Name)
		}
	}
	if o.upgrade != "" && h.Status == upgradeRequired {
		h.Fields = append(h.Fields, message.Field{Name: n.spell(o, "upgrade"), Value: o.upgrade})
	}
	if o.keepAlive {
		h.Fields = append(h.Fields, message.Field{Name: n.spell(o, "connection"), Value: "keep-alive"})
	}
}

// restorePlaces puts back the fields that travelled as something else, where they
// were: the one that was before the other first.
func (o *original) restorePlaces(h *message.Head) {
	host := o.host && h.Status == 0
	if host && o.hostAt < o.chunkedAt {
		insert(h, o.hostAt, "host", h.Authority)
	}
	if o.chunked {
		insert(h, o.chunkedAt, "transfer-encoding", "chunked")
	}
	if host && o.hostAt >= o.chunkedAt {
		insert(h, o.hostAt, "host", h.Authority)
	}
}

func insert(h *message.Head, at int, name, value string) {
	h.Fields = slices.Insert(h.Fields, min(at, len(h.Fields)), message.Field{Name: name, Value: value})
}

func (n *Names) spell(o *original, name string) string {
	if o.lower {
		return name
	}
	return n.title(name)
}

// find looks for a name's spelling in a list, and returns what comes after it.
func find(list, name string) (spelling, after string, ok bool) {
	for list != "" {
		token := list
		if i := strings.IndexByte(list, ','); i >= 0 {
			token, list = list[:i], list[i+1:]
		} else {
			list = ""
		}
		if message.EqualFold(token, name) {
			return token, list, true
		}
	}
	return "", "", false
}

// phrase is the reason of RFC 9110, section 15, that goes without saying.
func phrase(status int) string {
	switch status {
	case 100:
		return "Continue"
	case 200:
		return "OK"
	case 201:
		return "Created"
	case 202:
		return "Accepted"
	case 204:
		return "No Content"
	case 206:
		return "Partial Content"
	case 301:
		return "Moved Permanently"
	case 302:
		return "Found"
	case 303:
		return "See Other"
	case 304:
		return "Not Modified"
	case 307:
		return "Temporary Redirect"
	case 308:
		return "Permanent Redirect"
	case 400:
		return "Bad Request"
	case 401:
		return "Unauthorized"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 405:
		return "Method Not Allowed"
	case 409:
		return "Conflict"
	case 422:
		return "Unprocessable Entity"
	case 429:
		return "Too Many Requests"
	case 500:
		return "Internal Server Error"
	case 502:
		return "Bad Gateway"
	case 503:
		return "Service Unavailable"
	case 504:
		return "Gateway Timeout"
	}
	return ""
}
