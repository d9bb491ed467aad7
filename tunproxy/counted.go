package tunproxy

import (
	"strings"

	"github.com/tunmesh/tunmesh/tunproxy/authz"
	"github.com/tunmesh/tunmesh/tunproxy/flow"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
)

// maxCounted bounds the handles that a connection holds: more than a pod has
// names. A client that invents authorities gives way to itself alone.
const maxCounted = 16

// counted are the handles of a connection's requests that policy judged alike and
// that name one authority.
type counted struct {
	decision  *authz.Decision
	authority string
	requests  telemetry.HTTP
	judged    telemetry.Count
	served    telemetry.Serving // none of those that policy denies
}

// counts are the handles of one inbound connection. Another sidecar's carries the
// requests of several names, mixed; labels are made once for each.
type counts struct {
	all  []counted
	last int // the one that was asked for last
	next int // the one that gives way next
}

// find is the handles for those requests. They are valid until the next call.
func (c *counts) find(w *worker, f *flow.Secured, d *authz.Decision, authority string) *counted {
	if c.last < len(c.all) && c.all[c.last].is(d, authority) {
		return &c.all[c.last]
	}
	for i := range c.all {
		if c.all[i].is(d, authority) {
			c.last = i
			return &c.all[i]
		}
	}
	if len(c.all) < maxCounted {
		c.last = len(c.all)
		c.all = append(c.all, counted{})
	} else {
		c.last = c.next
		c.next = (c.next + 1) % maxCounted
		c.all[c.last].release()
	}
	c.all[c.last] = newCounted(w, f, d, authority)
	return &c.all[c.last]
}

func (c *counts) release() {
	for i := range c.all {
		c.all[i].release()
	}
	*c = counts{}
}

func newCounted(w *worker, f *flow.Secured, d *authz.Decision, authority string) counted {
	l := w.p.inboundLabels(f)
	judgedBy(&l, d, f)
	family := w.p.cfg.Metrics.HTTPDenied
	if d.Allow {
		family = w.p.cfg.Metrics.HTTPAllowed
	}
	l.Route = inboundRoute(d)
	c := counted{decision: d, judged: family.Handle(&l)}
	if d.Allow {
		c.served = w.p.cfg.Metrics.Served.Handle(l.Server, l.Route)
	}
	c.authority = strings.Clone(authority) // it was cut from a whole head
	l.Authority = c.authority
	c.requests = w.p.cfg.Metrics.HTTP.Handle(&l)
	return c
}

// inboundRoute is the rule of the policy that took a request: those of the
// specification's probes have one, and all others another.
func inboundRoute(d *authz.Decision) telemetry.Ref {
	if d.Reason == authz.ByProbe {
		return telemetry.Ref{Kind: "default", Name: "probe"}
	}
	return telemetry.Ref{Kind: "default", Name: "default"}
}

func (c *counted) is(d *authz.Decision, authority string) bool {
	return c.decision == d && c.authority == authority
}

func (c *counted) release() {
	c.requests.Release()
	c.judged.Release()
	c.served.Release()
}
