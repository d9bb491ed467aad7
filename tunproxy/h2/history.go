package h2

// how a stream came to its end.
type how uint8

const (
	unknown   how = iota
	bothEnded     // END_STREAM both ways
	theyReset     // RST_STREAM received
	weReset       // RST_STREAM sent: frames may be under way still
)

const historyLen = 256

// history remembers how the latest streams ended, because the answer to a frame
// for a closed stream depends on it (RFC 9113, section 5.1).
type history struct {
	ring   []past
	at     int
	forgot bool // a stream that we reset is no longer remembered
}

type past struct {
	id uint32
	how
}

func (h *history) add(id uint32, w how) {
	if len(h.ring) < historyLen {
		h.ring = append(h.ring, past{id, w})
		return
	}
	if h.ring[h.at].how == weReset {
		h.forgot = true
	}
	h.ring[h.at] = past{id, w}
	h.at = (h.at + 1) % historyLen
}

func (h *history) get(id uint32) how {
	for i := range h.ring {
		if h.ring[i].id == id {
			return h.ring[i].how
		}
	}
	return unknown
}
