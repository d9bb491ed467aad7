package tunproxy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/tunmesh/tunmesh/tunproxy/rpc/wire"
	"github.com/tunmesh/tunmesh/tunproxy/telemetry"
)

// admin answers on port 4191. It owns what may be asked and from where; the
// shells in admin_wire.go and admin_local.go own how the question arrives.
type admin struct {
	// ready says why the sidecar can't serve yet; nil: it can.
	ready   func() error
	metrics func(telemetry.Format) *telemetry.Page
	// certificate is the workload's, with its chain, and anchors are those in force,
	// PEM; nil before the first.
	certificate, anchors func() []byte
	connections          func(ctx context.Context, limit int) ([]wire.Connection, int)
	config               any // printed as JSON
	level                *slog.LevelVar
	shutdown             func()
	draining             *atomic.Bool
}

// question is a request to the admin port.
type question struct {
	Method, Path string // without query
	Query        string
	Body         []byte
	// Accept and Encoding are the fields Accept and Accept-Encoding.
	Accept, Encoding string
	// Local: asked on the pod's loopback interface, not on the wire.
	Local bool
}

// reply is the answer.
type reply struct {
	Status int
	Type   string
	// Coding is the body's Content-Encoding; "": none.
	Coding string
	Body   []byte
	// Pages, if set, is a body in its stead that is made while it is sent: how long
	// it will be is not known. It returns nil at the end.
	Pages func() []byte
}

// next is the body's next piece, nil after the last.
func (r *reply) next() []byte {
	if r.Pages != nil {
		return r.Pages()
	}
	b := r.Body
	if len(b) == 0 {
		return nil
	}
	n := min(len(b), pieceSize)
	r.Body = b[n:]
	return b[:n]
}

func text(status int, format string, args ...any) reply {
	return reply{Status: status, Type: "text/plain; charset=utf-8", Body: fmt.Appendf(nil, format+"\n", args...)}
}

// answer is the admin interface: five paths for everybody, the rest for those
// inside the pod.
func (a *admin) answer(q question) reply {
	switch q.Path {
	case "/live":
		return get(q, func() reply { return text(200, "live") })
	case "/ready":
		return get(q, a.readiness)
	case "/metrics":
		return get(q, func() reply { return a.scrape(q) })
	case "/certificate":
		return get(q, func() reply { return certificates(a.certificate()) })
	case "/trust-anchors":
		return get(q, func() reply { return certificates(a.anchors()) })
	}
	if !q.Local {
		return text(404, "not found here: the wire side serves /live, /ready, /metrics, /certificate and /trust-anchors")
	}
	switch q.Path {
	case "/config":
		return get(q, a.printConfig)
	case "/connections":
		return get(q, func() reply { return a.printConnections(q) })
	case "/log-level":
		return a.logLevel(q)
	case "/debug/goroutines":
		return get(q, goroutines)
	case "/shutdown":
		if q.Method != "POST" {
			return text(405, "use POST")
		}
		a.shutdown()
		return text(200, "draining")
	}
	return text(404, "not found: try /live /ready /metrics /certificate /trust-anchors /config /connections /log-level /shutdown /debug/goroutines")
}

func get(q question, f func() reply) reply {
	if q.Method != "GET" && q.Method != "HEAD" {
		return text(405, "use GET")
	}
	return f()
}

func (a *admin) readiness() reply {
	if a.draining.Load() {
		return text(503, "draining")
	}
	if err := a.ready(); err != nil {
		return text(503, "not ready: %v", err)
	}
	return text(200, "ready")
}

func (a *admin) scrape(q question) reply {
	f := telemetry.Negotiate(q.Accept, q.Encoding)
	r := reply{Status: 200, Type: f.ContentType(), Pages: a.metrics(f).Next}
	if f.Gzip {
		r.Coding = "gzip"
	}
	return r
}

// certificates says what any client learns in a handshake, to those who have no
// business to shake hands: they are no secret.
func certificates(pem []byte) reply {
	if len(pem) == 0 {
		return text(503, "there is none yet")
	}
	return reply{Status: 200, Type: "application/x-pem-file", Body: pem}
}

func (a *admin) printConfig() reply {
	b, err := json.MarshalIndent(a.config, "", "  ")
	if err != nil {
		return text(500, "print configuration: %v", err)
	}
	return reply{Status: 200, Type: "application/json", Body: append(b, '\n')}
}

func (a *admin) logLevel(q question) reply {
	switch q.Method {
	case "GET", "HEAD":
		return text(200, "%s", strings.ToLower(a.level.Level().String()))
	case "PUT":
		var l slog.Level
		if err := l.UnmarshalText(bytes.TrimSpace(q.Body)); err != nil {
			return text(400, "set log level: %v; want debug, info, warn or error", err)
		}
		a.level.Set(l)
		return text(200, "%s", strings.ToLower(l.String()))
	}
	return text(405, "use GET or PUT")
}

// goroutines prints what every goroutine does. There is no profiler here:
// runtime/pprof would cost each sidecar 1.3 MB of memory, and perf sees as much
// from outside.
func goroutines() reply {
	b := make([]byte, 1<<20)
	return reply{Status: 200, Type: "text/plain; charset=utf-8", Body: b[:runtime.Stack(b, true)]}
}

// statusText is the phrase of the statuses used here.
func statusText(status int) string {
	switch status {
	case 200:
		return "OK"
	case 400:
		return "Bad Request"
	case 404:
		return "Not Found"
	case 405:
		return "Method Not Allowed"
	case 503:
		return "Service Unavailable"
	}
	return "Internal Server Error"
}
