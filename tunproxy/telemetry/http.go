package telemetry

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// NoGRPCStatus is a response's GRPC when there was no grpc-status.
const NoGRPCStatus = -1

// Requests are the families of HTTP requests.
type Requests struct{ sets *sets[httpMetrics] }

type httpMetrics struct {
	requests    Counter
	redelivered Counter
	// seen grows with each new kind of response and is otherwise read only.
	seen atomic.Pointer[responses]
	mu   sync.Mutex // for growth
}

// responses are the kinds of responses of one set.
type responses struct {
	classes []*class
	status  []*status
}

type class struct {
	r      Response // without Latency
	labels string   // rendered
	n      Counter
	status *status
}

type status struct {
	code    int
	labels  string
	latency Latency
}

// maxClasses bounds the kinds of responses of one set; those that come after
// share one without status code.
const maxClasses = 64

// Response is how a request ended.
type Response struct {
	// Status is 0 when there was no response head.
	Status int
	// GRPC is grpc-status, or NoGRPCStatus.
	GRPC int
	// Error says what broke the stream, in few different words ("" = nothing):
	// "reset", "timeout", "h2(CANCEL)", …
	Error string
	// Latency is from the request's head to the response's end.
	Latency time.Duration
	// Trace is the trace of the request, if it is sampled: a value of the field
	// traceparent, or "". It is borrowed.
	Trace string
	// TraceID instead is known where the sidecar has a span of the request; zero: it
	// has none.
	TraceID [16]byte
	// Redelivered: nobody acted on the request here; it was sent elsewhere.
	Redelivered bool
}

// Failure is Linkerd's default classification: a broken stream, a 5xx, or a
// gRPC status that blames the server.
func (r *Response) Failure() bool {
	if r.Error != "" || r.Status >= 500 {
		return true
	}
	switch r.GRPC {
	case 2, 4, 13, 14, 15: // unknown, deadline exceeded, internal, unavailable, data loss
		return true
	}
	return false
}

// NewRequests registers request_total, request_redelivered_total, response_total
// and response_latency_ms.
// prefix is put before the names ("", "control_").
func NewRequests(r *Registry, prefix string) *Requests {
	return &Requests{newSets(r, httpColumns(prefix)...)}
}

// HTTP is a handle for requests that share their labels.
type HTTP struct {
	sets *sets[httpMetrics]
	set  *set[httpMetrics]
}

// Handle finds the counters for those labels; Release gives them back.
func (m *Requests) Handle(l *Labels) HTTP {
	var stack [768]byte
	return HTTP{m.sets, m.sets.acquire(l.append(stack[:0], ""))}
}

// handle is Handle for labels of another shape.
func (m *Requests) handle(labels ...Label) HTTP {
	var b []byte
	for _, l := range labels {
		b = appendLabel(b, l.Name, l.Value)
	}
	return HTTP{m.sets, m.sets.acquire(b)}
}

// Release gives the handle back. It must not be used afterwards.
func (h HTTP) Release() {
	if h.set != nil {
		h.sets.release(h.set)
	}
}

// Request counts a request.
func (h HTTP) Request() {
	if h.set != nil {
		h.set.metrics.requests.Inc()
	}
}

// Response counts how a request ended.
func (h HTTP) Response(r Response) {
	if h.set == nil {
		return
	}
	c := h.set.metrics.class(&r)
	c.n.Inc()
	c.status.latency.Observe(r.Latency)
	if r.Trace != "" || r.TraceID != [16]byte{} {
		c.status.latency.show(r.Latency, r.Trace, r.TraceID)
	}
	if r.Redelivered {
		h.set.metrics.redelivered.Inc()
	}
}

func (m *httpMetrics) class(r *Response) *class {
	if p := m.seen.Load(); p != nil {
		for _, c := range p.classes {
			if c.r.Status == r.Status && c.r.GRPC == r.GRPC && c.r.Error == r.Error {
				return c
			}
		}
	}
	return m.grow(r)
}

func (m *httpMetrics) grow(r *Response) *class {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.seen.Load()
	if old == nil {
		old = &responses{}
	}
	want := Response{Status: r.Status, GRPC: r.GRPC, Error: r.Error}
	if len(old.classes) >= maxClasses-2 { // two are left: a success and a failure
		want = Response{GRPC: NoGRPCStatus}
		if r.Failure() {
			want.Error = "overflow"
		}
	}
	for _, c := range old.classes { // another goroutine may have been first
		if c.r == want {
			return c
		}
	}
	next := &responses{
		classes: append(make([]*class, 0, len(old.classes)+1), old.classes...),
		status:  append(make([]*status, 0, len(old.status)+1), old.status...),
	}
	c := &class{r: want}
	c.labels = c.render()
	for _, s := range next.status {
		if s.code == want.Status {
			c.status = s
		}
	}
	if c.status == nil {
		c.status = &status{code: want.Status, labels: string(appendStatus(nil, want.Status))}
		next.status = append(next.status, c.status)
	}
	next.classes = append(next.classes, c)
	m.seen.Store(next)
	return c
}

func (c *class) render() string {
	b := appendStatus(nil, c.r.Status)
	if c.r.Failure() {
		b = appendLabel(b, "classification", "failure")
	} else {
		b = appendLabel(b, "classification", "success")
	}
	if c.r.GRPC != NoGRPCStatus {
		b = appendLabel(b, "grpc_status", strconv.Itoa(c.r.GRPC))
	}
	if c.r.Error != "" {
		b = appendLabel(b, "error", c.r.Error)
	}
	return string(b)
}

func appendStatus(b []byte, code int) []byte {
	if code == 0 {
		return b
	}
	return appendLabel(b, "status_code", strconv.Itoa(code))
}

func httpColumns(prefix string) []column[httpMetrics] {
	latency, total := prefix+"response_latency_ms", prefix+"response_total"
	return []column[httpMetrics]{
		counts(prefix+"request_total", "Total count of HTTP requests.", func(m *httpMetrics) *Counter { return &m.requests }),
		rare(prefix+"request_redelivered_total", "Total count of HTTP requests that their endpoint did not act on and that were sent to another.", func(m *httpMetrics) *Counter { return &m.redelivered }),
		{latency, "Elapsed times between a request's headers being received and its response stream completing.", histogram, func(t *text, s *set[httpMetrics]) {
			if p := s.metrics.seen.Load(); p != nil {
				for _, st := range p.status {
					t.latency(latency, s.labels, st.labels, &st.latency)
				}
			}
		}},
		{total, "Total count of HTTP responses.", counter, func(t *text, s *set[httpMetrics]) {
			if p := s.metrics.seen.Load(); p != nil {
				for _, c := range p.classes {
					t.sample(total, s.labels, c.labels, c.n.Value())
				}
			}
		}},
	}
}
