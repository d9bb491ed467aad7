package tap

import (
	"context"
	"errors"
	"fmt"
	"time"

	api "github.com/tunmesh/tunmesh/api/tap"
	"github.com/tunmesh/tunmesh/control/catalog"
	"github.com/tunmesh/tunmesh/internal/annotation"
)

const (
	// maxAsks bounds the questions that wait to be sent to one sidecar.
	maxAsks = 8
	// askWait bounds the wait for its answer.
	askWait = 5 * time.Second
	// maxConnections bounds an answer, whatever a sidecar sends.
	maxConnections = 1000
)

// What a question about connections may end with.
var (
	// ErrAbsent: the pod's sidecar is not attached here.
	ErrAbsent = errors.New("the pod's sidecar is not attached: is it meshed, running, and fed by this replica?")
	// ErrForbidden: the pod's annotation keeps people from looking.
	ErrForbidden = errors.New("the pod forbids it by annotation " + annotation.DisableTap)
)

// question is one that a sidecar is answering.
type question struct {
	of    *proxy
	got   []*api.Connection
	total uint64
	done  chan struct{} // closed with the last part
}

// Connections asks a pod's sidecar for its connections with peers outside of the
// pod, at most limit (0: as many as it gives), and for how many there are.
func (h *Hub) Connections(ctx context.Context, pod catalog.Key, limit uint32) ([]*api.Connection, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	q := &question{done: make(chan struct{})}
	id, err := h.ask(pod, q)
	if err != nil {
		return nil, 0, err
	}
	defer h.forgetQuestion(id)
	select {
	case q.of.asks <- &api.Ask{Id: id, Limit: limit}:
	default:
		return nil, 0, ErrBusy
	}
	select {
	case <-q.done:
		return q.got, q.total, nil
	case <-ctx.Done():
		return nil, 0, fmt.Errorf("ask the sidecar of %s for its connections: %w; one of an older release does not answer", pod, context.Cause(ctx))
	}
}

// ask gives a question its number.
func (h *Hub) ask(pod catalog.Key, q *question) (id uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.proxies[pod]
	switch {
	case p == nil:
		return 0, ErrAbsent
	case p.pod.Annotations[annotation.DisableTap] == "true":
		return 0, ErrForbidden
	case len(h.asked) >= maxWatches:
		return 0, ErrBusy
	}
	q.of = p
	h.last++
	h.asked[h.last] = q
	return h.last, nil
}

func (h *Hub) forgetQuestion(id uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.asked, id)
}

// answered takes a part of an answer; one that nobody waits for is nobody's, and
// nobody answers for another.
func (h *Hub) answered(p *proxy, c *api.Connections) {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.asked[c.GetId()]
	if q == nil || q.of != p {
		return
	}
	q.got = append(q.got, c.GetConnections()[:min(len(c.GetConnections()), maxConnections-len(q.got))]...)
	q.total = c.GetTotal()
	if !c.GetMore() {
		delete(h.asked, c.GetId())
		close(q.done)
	}
}
